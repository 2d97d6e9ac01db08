//! Parquet: `path`, a string, and `embedding`, a fixed-size list of f32.
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow_array::builder::{ArrayBuilder, FixedSizeListBuilder, Float32Builder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::{Description, EachRow};
use crate::inputs;

/// The key of the description in the file's metadata.
const KEY: &str = "vit";

/// Rows that go to the library at once.
const AT_ONCE: usize = 256;

/// The bytes of embeddings in a row group: what is in memory while the file is written.
const ROW_GROUP: usize = 8 << 20;

fn schema(dim: usize) -> Result<Schema> {
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let list = DataType::FixedSizeList(item, i32::try_from(dim)?);
    Ok(Schema::new(vec![Field::new("path", DataType::Utf8, false), Field::new("embedding", list, false)]))
}

pub(super) fn write(
    file: &mut File,
    description: &Description,
    each: &dyn Fn(&mut EachRow<'_>) -> Result<()>,
) -> Result<()> {
    let said = serde_json::to_string(description)?;
    // In Arrow's schema too, which is what pyarrow shows as the metadata of a table.
    let schema = schema(description.dim)?.with_metadata(HashMap::from([(KEY.to_owned(), said.clone())]));
    let schema = Arc::new(schema);
    let properties = WriterProperties::builder()
        .set_created_by(description.program.clone())
        .set_key_value_metadata(Some(vec![KeyValue::new(KEY.into(), said)]))
        // Numbers of embeddings hardly repeat: neither compression nor dictionaries nor extremes of pages are of use.
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_max_row_group_row_count(Some((ROW_GROUP / (4 * description.dim)).max(AT_ONCE)))
        .build();
    let mut writer = ArrowWriter::try_new(&mut *file, Arc::clone(&schema), Some(properties))?;
    let mut rows = Builders::new(&schema);
    each(&mut |path, embedding| {
        rows.push(path, embedding);
        if rows.paths.len() == AT_ONCE { Ok(writer.write(&rows.finish(&schema)?)?) } else { Ok(()) }
    })?;
    writer.write(&rows.finish(&schema)?)?;
    writer.close()?;
    Ok(file.flush()?)
}

/// The next rows.
struct Builders {
    paths: StringBuilder,
    embeddings: FixedSizeListBuilder<Float32Builder>,
}

impl Builders {
    fn new(schema: &Schema) -> Self {
        let (item, dim) = match schema.field(1).data_type() {
            DataType::FixedSizeList(item, dim) => (Arc::clone(item), *dim),
            _ => unreachable!("the schema has a fixed-size list"),
        };
        let embeddings = FixedSizeListBuilder::new(Float32Builder::new(), dim).with_field(item);
        Self { paths: StringBuilder::new(), embeddings }
    }

    fn push(&mut self, path: &str, embedding: &[f32]) {
        self.paths.append_value(path);
        self.embeddings.values().append_slice(embedding);
        self.embeddings.append(true);
    }

    fn finish(&mut self, schema: &Arc<Schema>) -> Result<RecordBatch> {
        let columns: Vec<ArrayRef> = vec![Arc::new(self.paths.finish()), Arc::new(self.embeddings.finish())];
        Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
    }
}

/// Opens a file, and checks its columns.
fn open(path: &Path) -> Result<(ParquetRecordBatchReaderBuilder<File>, Description, usize)> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(inputs::open_file(path)?)?;
    let metadata = reader.metadata().file_metadata();
    let said = metadata.key_value_metadata().into_iter().flatten().find(|entry| entry.key == KEY);
    let said = said.and_then(|entry| entry.value.as_ref());
    let said = said.context("its metadata does not say how the embeddings were made: it is not of 'vit embed'")?;
    let description: Description = serde_json::from_str(said).context("its metadata")?;
    let rows = usize::try_from(metadata.num_rows())?;
    description.validate()?;
    let wanted = schema(description.dim)?;
    for field in wanted.fields() {
        let found = reader.schema().field_with_name(field.name())?.data_type();
        ensure!(
            found.equals_datatype(field.data_type()),
            "the column '{}' is {found}, and not {}",
            field.name(),
            field.data_type()
        );
    }
    Ok((reader, description, rows))
}

pub(super) fn describe(path: &Path) -> Result<(Description, usize)> {
    open(path).map(|(_, description, rows)| (description, rows))
}

pub(super) fn each(path: &Path, row: &mut EachRow<'_>) -> Result<()> {
    let (reader, description, _) = open(path)?;
    for batch in reader.with_batch_size(AT_ONCE).build()? {
        let batch = batch?;
        let column = |name| batch.column_by_name(name).context("a column is missing");
        let (paths, lists) = (column("path")?.as_string::<i32>(), column("embedding")?.as_fixed_size_list());
        let empty = paths.null_count() + lists.null_count() + lists.values().null_count();
        ensure!(empty == 0, "a row without a path or without its embedding");
        let first = lists.value_offset_at(0);
        let values = &lists.values().as_primitive::<Float32Type>().values()[first..];
        for (path, embedding) in paths.iter().zip(values.chunks_exact(description.dim)) {
            row(path.unwrap_or_default(), embedding)?;
        }
    }
    Ok(())
}
