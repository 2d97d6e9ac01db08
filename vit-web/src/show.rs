//! Attention and features over the picture.
use vit_attend::pca::{self, Foreground, Patch};
use vit_attend::{Canvas, Patches, Query, places, rollout};
use vit_engine::Output;
use vit_image::{Picture, View};

use crate::model::Opened;
use crate::{Answer, Failed};

/// What was computed of the picture to be shown.
#[derive(Default)]
pub(crate) struct Shown {
    /// The attention maps that were computed last.
    maps: Option<(Output, Vec<f32>)>,
    /// The map that is shown, \[rows, columns\], and the patch whose attention it is.
    heat: Option<(Vec<f64>, Option<[usize; 2]>)>,
    /// \[rows, columns\]; `None` for the background.
    colours: Option<Vec<Option<[f64; 3]>>>,
    /// The picture, scaled to this longest side.
    canvas: Option<(usize, Canvas)>,
}

impl Opened {
    fn picture(&self) -> Answer<&(Picture, View)> {
        let prepared = self.prepared.as_ref().ok_or("there is no picture")?;
        prepared.picture.as_ref().ok_or_else(|| "there are pixels, but no picture".into())
    }

    /// The map of [`vit_attention`](crate::vit_attention), and whose it is.
    pub(crate) fn attention(&mut self, layer: usize, head: usize, at: Option<[f64; 2]>) -> Answer<(Vec<f32>, u32)> {
        let c = self.header.config;
        let query = match at {
            None if layer > 0 && Query::of_model(&c) == Query::Pool => Query::Patches,
            None => Query::of_model(&c),
            Some(at) => {
                let (_, view) = self.picture()?;
                Query::patch_at(&c, view, at).ok_or("the model does not see this part of the picture")?
            }
        };
        let (mark, from) = match query {
            Query::Class => (None, 1),
            Query::Pool => (None, 2),
            Query::Patches => (None, 3),
            Query::Patch(cell) => (Some(cell), 4),
        };
        let (pool, heads) = match c.attention_pool.filter(|_| query == Query::Pool) {
            Some(pool) => (Some(pool), pool.heads),
            None => (None, c.heads),
        };
        if head > heads || layer > c.depth {
            return Err(Failed(format!("layer {layer}, head {head}: there are {} layers and {heads} heads", c.depth)));
        }
        let output = match (pool, layer) {
            (Some(_), _) => Output::PoolAttention,
            (None, 0) => Output::AttentionOfLayer(c.depth),
            (None, layer) => Output::AttentionOfLayer(layer),
        };
        let maps = self.maps(output)?;
        let head = (head > 0).then_some(head);
        let mut weights = query.weights(&c);
        let map = match pool.map(|pool| pool.tokens(&c)) {
            Some(range) => {
                weights[range.clone()].copy_from_slice(&rollout::of_heads(maps, range.len(), head));
                weights
            }
            None => rollout::attended(&weights, &rollout::of_heads(maps, c.tokens() * c.tokens(), head)),
        };
        let map = map[c.prefix()..].to_vec();
        let result = map.iter().map(|x| *x as f32).collect();
        self.shown.heat = Some((map, mark));
        Ok((result, from))
    }

    /// The attention maps of one layer, which stay until those of another are asked for: heads then cost nothing.
    fn maps(&mut self, output: Output) -> Answer<&[f32]> {
        let maps = match self.shown.maps.take() {
            Some((known, maps)) if known == output => maps,
            _ => self.run(output)?,
        };
        if !maps.iter().all(|x| x.is_finite()) {
            return Err("the model's attention is NaN or infinite".into());
        }
        Ok(&self.shown.maps.insert((output, maps)).1)
    }

    /// The colours of [`vit_colours`](crate::vit_colours).
    pub(crate) fn colours(&mut self) -> Answer<Vec<f32>> {
        let c = self.header.config;
        let places = places(&c, &self.picture()?.1);
        let features = self.run(Output::Patches)?;
        let rows = features.chunks_exact(c.dim).zip(&places);
        let patches: Vec<Patch<'_>> =
            rows.filter_map(|(features, place)| place.map(|border| Patch { features, border })).collect();
        let found = pca::colours(&patches, Foreground { threshold: 0.0, invert: false, everything: false })?;
        let mut of_patches = found.of_patches.iter();
        let colour = |place: &Option<bool>| place.and_then(|_| of_patches.next().copied().flatten());
        let colours: Vec<Option<[f64; 3]>> = places.iter().map(colour).collect();
        let result = colours.iter().flat_map(|colour| colour.unwrap_or([f64::NAN; 3])).map(|x| x as f32).collect();
        self.shown.colours = Some(colours);
        Ok(result)
    }

    /// Height and width, and the samples of [`vit_paint`](crate::vit_paint).
    pub(crate) fn paint(
        &mut self,
        what: u32,
        longest: usize,
        smooth: bool,
        alpha: f64,
    ) -> Answer<([usize; 2], Vec<u8>)> {
        if self.shown.canvas.as_ref().is_none_or(|(side, _)| *side != longest) {
            let (picture, view) = self.picture()?;
            let canvas = Canvas::new(picture, view, Some(longest).filter(|side| *side > 0))?;
            self.shown.canvas = Some((longest, canvas));
        }
        let (_, canvas) = self.shown.canvas.as_ref().ok_or("there is no canvas")?;
        let c = &self.header.config;
        let patches = Patches { patch: c.patch, grid: c.grid(), smooth, alpha };
        let image = match what {
            0 => canvas.plain(),
            1 => {
                let (map, mark) = self.shown.heat.as_ref().ok_or("no attention was computed")?;
                canvas.heat(map, &patches, *mark)
            }
            _ => canvas.colours(self.shown.colours.as_ref().ok_or("no colours were computed")?, &patches),
        };
        let size = [image.height() as usize, image.width() as usize];
        let bytes = size[0] * size[1] * 4;
        let mut samples = Vec::new();
        let refused = |_| Failed(format!("the system does not give {bytes} bytes for a picture"));
        samples.try_reserve_exact(bytes).map_err(refused)?;
        image.as_raw().as_chunks().0.iter().for_each(|[r, g, b]: &[u8; 3]| samples.extend([*r, *g, *b, 255]));
        Ok((size, samples))
    }
}
