//! An open model, and its forward passes.
use vit_engine::packed::Header;
use vit_engine::{AlignedBox, Images, Isa, Model, Output, Plan, Precision};

use crate::picture::Prepared;
use crate::show::Shown;
use crate::{Answer, FACTS, Failed};

/// A model in the memory that its file was read into.
pub(crate) struct Opened {
    file: AlignedBox,
    pub(crate) header: Header,
    arena: AlignedBox,
    pub(crate) prepared: Option<Prepared>,
    pub(crate) shown: Shown,
}

impl Opened {
    pub(crate) fn new(file: AlignedBox) -> Answer<Self> {
        let header = Header::read(&file)?;
        if header.file_len() != file.len() {
            return Err(Failed(format!("the file has {} bytes, of {}", file.len(), header.file_len())));
        }
        let opened = Self { header, arena: AlignedBox::new(0)?, file, prepared: None, shown: Shown::default() };
        let arena = opened.model()?.plan(first_output(&opened.header), 1, None)?.arena_bytes();
        Ok(Self { arena: AlignedBox::new(arena)?, ..opened })
    }

    fn model(&self) -> Answer<Model<'_>> {
        let Self { header, file, .. } = self;
        let weights = &file[file.len() - header.weight_bytes()..];
        Ok(Model::new(&header.config, header.formats, Isa::best(), weights)?)
    }

    /// One forward pass over the prepared picture.
    pub(crate) fn run(&mut self, output: Output) -> Answer<Vec<f32>> {
        let plan = self.model()?.plan(output, 1, None)?;
        if self.arena.len() < plan.arena_bytes() {
            // The smaller one goes first.
            self.arena = AlignedBox::new(0)?;
            self.arena = AlignedBox::new(plan.arena_bytes())?;
        }
        let mut result = zeros(plan.output_len())?;
        let mut arena = std::mem::replace(&mut self.arena, AlignedBox::new(0)?);
        let passed = self.pass(&plan, &mut arena, &mut result);
        self.arena = arena;
        passed.map(|()| result)
    }

    fn pass(&self, plan: &Plan, arena: &mut AlignedBox, result: &mut [f32]) -> Answer {
        let c = self.header.config;
        let prepared = self.prepared.as_ref().ok_or("there is no picture")?;
        let mut images = Images::new(&prepared.pixels, [c.channels, c.image[0], c.image[1]])?;
        Ok(self.model()?.forward(plan, &mut images, arena, executor(), result)?)
    }
}

#[cfg(feature = "threads")]
use crate::threads::executor;

#[cfg(not(feature = "threads"))]
fn executor() -> &'static dyn vit_engine::Executor {
    &vit_engine::Serial
}

/// Refuses a precision that this build leaves out, before the weights are loaded.
fn check(precision: Precision) -> Answer {
    let left_out = [
        (Precision::F16, !cfg!(feature = "f16")),
        (Precision::Bf16, !cfg!(feature = "bf16")),
        (Precision::Int4, !cfg!(feature = "int4")),
    ];
    let name = precision.name();
    if left_out.contains(&(precision, true)) {
        return Err(Failed(format!("this module is without {name}, to be small: the whole one has it")));
    }
    Ok(())
}

/// The output that memory is planned for: what the model is for.
fn first_output(header: &Header) -> Output {
    if header.config.classes > 0 {
        Output::Logits
    } else if header.config.embedding_len().is_some() {
        Output::Embedding
    } else {
        Output::Patches
    }
}

/// The facts and the text of [`vit_facts`](crate::vit_facts).
pub(crate) fn describe(header: &Header) -> Answer<([u32; FACTS], String)> {
    check(header.formats.precision())?;
    let c = &header.config;
    let plan = Plan::new(c, header.formats.precision(), first_output(header), 1, None)?;
    let pool = c.attention_pool.map_or(0, |pool| pool.heads);
    let [rows, columns] = c.grid();
    let facts = [
        header.file_len(),
        header.weight_bytes(),
        plan.arena_bytes(),
        c.channels,
        c.image[0],
        c.image[1],
        c.patch[0],
        c.patch[1],
        rows,
        columns,
        c.tokens(),
        c.dim,
        c.depth,
        c.heads,
        pool,
        c.classes,
        c.embedding_len().unwrap_or(0),
        usize::from(header.preprocessing.is_some()),
    ];
    let level = Isa::best();
    let level = if header.formats.precision().quantises() { level.unfused() } else { level };
    let words = [header.formats.precision().name(), level.name()];
    let texts = words.into_iter().chain(header.labels.iter().map(String::as_str));
    let text = texts.flat_map(|text| text.chars().filter(|letter| *letter != '\0').chain(['\0'])).collect();
    Ok((facts.map(|fact| u32::try_from(fact).unwrap_or(u32::MAX)), text))
}

/// Zeros, or the message that there is no memory for them.
pub(crate) fn zeros(len: usize) -> Answer<Vec<f32>> {
    let mut zeros = Vec::new();
    let refused = |_| Failed(format!("the system does not give memory for {len} numbers"));
    zeros.try_reserve_exact(len).map_err(refused)?;
    zeros.resize(len, 0.0);
    Ok(zeros)
}
