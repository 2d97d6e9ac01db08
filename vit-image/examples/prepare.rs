//! Prepares pictures by the files of models, for programs that compare: reads lines of four fields, separated by tabs, from
//! stdin: a picture, a model's folder, channels (1 or 3), an output. Writes \[channels, height, width\] in little-endian f32,
//! and prints a line for each: height and width, or an error. With - as folder it is the decoded picture, 0 to 255.
use std::error::Error;
use std::io::BufRead;
use std::path::Path;

use vit_image::{Picture, config};

const MAX_PIXELS: u64 = 100_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let fields: Vec<&str> = line.split('\t').collect();
        let [picture, folder, channels, out] = fields[..] else { return Err("four fields are wanted".into()) };
        match prepare(Path::new(picture), folder, channels.parse()?) {
            Ok(([height, width], pixels)) => {
                std::fs::write(out, pixels.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())?;
                println!("{height} {width}");
            }
            Err(error) => println!("error: {error}"),
        }
    }
    Ok(())
}

fn prepare(picture: &Path, folder: &str, channels: usize) -> Result<([usize; 2], Vec<f32>), Box<dyn Error>> {
    let picture = Picture::decode(&std::fs::read(picture)?, channels, MAX_PIXELS)?;
    if folder == "-" {
        let samples = (0..channels).flat_map(|channel| picture.samples().iter().skip(channel).step_by(channels));
        return Ok((picture.size(), samples.map(|sample| f32::from(*sample)).collect()));
    }
    let json = |name: &str| std::fs::read(Path::new(folder).join(name)).ok().map(|text| serde_json::from_slice(&text));
    let mut files = config::Files {
        preprocessor: json("preprocessor_config.json").transpose()?,
        processor: json("processor_config.json").transpose()?,
        ..Default::default()
    };
    if let Some(config) = json("open_clip_config.json").or(json("config.json")) {
        files.config = config?;
    }
    let preprocessing = config::find(&files)?;
    let size = preprocessing.output_size(picture.size())?;
    let mut pixels = vec![0.0; channels * size[0] * size[1]];
    preprocessing.apply(&picture, MAX_PIXELS, &mut pixels)?;
    Ok((size, pixels))
}
