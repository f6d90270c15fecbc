//! Typed columns between rows and Parquet files.

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::{ByteArray, DataType, FixedLenByteArray};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::file::serialized_reader::ReadOptionsBuilder;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnPath, TypePtr};
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use thiserror::Error;

/// Rows of a row group, and about its bytes: what a writer holds in memory.
const GROUP_ROWS: usize = 1 << 16;
const GROUP_BYTES: usize = 32 << 20;
/// Rows of a page: what is read at least.
const PAGE_ROWS: usize = 1 << 12;

/// Why a Parquet file could not be written or read.
#[derive(Debug, Error)]
pub enum FileError {
    /// It is damaged, or the storage failed.
    #[error(transparent)]
    Parquet(#[from] parquet::errors::ParquetError),
    /// Its columns are not those of this format.
    #[error("not the columns of this version")]
    Schema,
    /// It has fewer rows than asked for.
    #[error("it has no rows {0:?}")]
    Rows(Range<u64>),
}

/// How a column is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Numbers that grow or stay: differences, with least and most per row group.
    Delta,
    /// Few different values: a dictionary, with least and most per row group.
    Few,
    /// Random bytes: as they are.
    Random,
    /// Text of many kinds, or bytes.
    Many,
}

/// Name, Parquet type and layout of a column.
pub(crate) type Spec = (&'static str, &'static str, Kind);

/// Values of one column. The optional ones hold `None` where the row has none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Column {
    Long(Vec<i64>),
    Int(Vec<i32>),
    Text(Vec<ByteArray>),
    OptionalInt(Vec<Option<i32>>),
    OptionalText(Vec<Option<ByteArray>>),
    Fixed(usize, Vec<u8>),
}

impl Column {
    fn clear(&mut self) {
        match self {
            Self::Long(v) => v.clear(),
            Self::Int(v) => v.clear(),
            Self::Text(v) => v.clear(),
            Self::OptionalInt(v) => v.clear(),
            Self::OptionalText(v) => v.clear(),
            Self::Fixed(_, v) => v.clear(),
        }
    }
}

/// A number as Parquet's `i64`; proxies may claim more than it can hold.
pub(crate) fn long(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// UTF-8 out of bytes that may be anything.
pub(crate) fn text(bytes: &[u8]) -> ByteArray {
    ByteArray::from(String::from_utf8_lossy(bytes).into_owned().into_bytes())
}

fn schema(name: &str, specs: &[Spec]) -> Result<TypePtr, FileError> {
    let columns: String = specs.iter().map(|(name, kind, _)| columns_line(name, kind)).collect();
    Ok(Arc::new(parse_message_type(&format!("message {name} {{\n{columns}}}"))?))
}

fn columns_line(name: &str, kind: &str) -> String {
    match kind.split_once(" / ") {
        Some((physical, logical)) => format!("{physical} {name} ({logical});\n"),
        None => format!("{kind} {name};\n"),
    }
}

fn properties(specs: &[Spec], compression: Compression) -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_created_by("meshchain".to_owned())
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_dictionary_enabled(false)
        .set_compression(compression);
    for (name, _, kind) in specs {
        let path = ColumnPath::from(*name);
        properties = match kind {
            Kind::Delta => properties
                .set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED)
                .set_column_statistics_enabled(path, EnabledStatistics::Chunk),
            Kind::Few => properties
                .set_column_dictionary_enabled(path.clone(), true)
                .set_column_statistics_enabled(path, EnabledStatistics::Chunk),
            Kind::Random => properties
                .set_column_encoding(path.clone(), Encoding::PLAIN)
                .set_column_compression(path, Compression::UNCOMPRESSED),
            Kind::Many => properties,
        };
    }
    properties.build()
}

/// Fast compression, for text.
pub(crate) fn zstd() -> Compression {
    ZstdLevel::try_new(1).map_or(Compression::UNCOMPRESSED, Compression::ZSTD)
}

/// Writes rows, a row group at a time.
pub(crate) struct Writer<W: Write + Send> {
    file: SerializedFileWriter<W>,
    rows: usize,
    bytes: usize,
}

impl<W: Write + Send> Writer<W> {
    pub(crate) fn new(
        out: W,
        name: &str,
        specs: &[Spec],
        compression: Compression,
    ) -> Result<Self, FileError> {
        let properties = Arc::new(properties(specs, compression));
        let file = SerializedFileWriter::new(out, schema(name, specs)?, properties)?;
        Ok(Self { file, rows: 0, bytes: 0 })
    }

    /// Notes `rows` more rows of so many bytes in `columns`, and writes them once they make a row
    /// group.
    pub(crate) fn pushed(
        &mut self,
        rows: usize,
        bytes: usize,
        columns: &mut [Column],
    ) -> Result<(), FileError> {
        self.rows += rows;
        self.bytes += bytes;
        let full = self.rows >= GROUP_ROWS || self.bytes >= GROUP_BYTES;
        if full { self.flush(columns) } else { Ok(()) }
    }

    fn flush(&mut self, columns: &mut [Column]) -> Result<(), FileError> {
        let mut group = self.file.next_row_group()?;
        for column in columns {
            let mut writer = group.next_column()?.ok_or(FileError::Schema)?;
            write(writer.untyped(), column)?;
            writer.close()?;
        }
        group.close()?;
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }

    pub(crate) fn finish(mut self, columns: &mut [Column]) -> Result<W, FileError> {
        if self.rows > 0 {
            self.flush(columns)?;
        }
        Ok(self.file.into_inner()?)
    }
}

/// Writes a column's values, and clears it.
fn write(writer: &mut ColumnWriter<'_>, column: &mut Column) -> Result<(), FileError> {
    match (writer, &mut *column) {
        (ColumnWriter::Int64ColumnWriter(w), Column::Long(v)) => w.write_batch(v, None, None)?,
        (ColumnWriter::Int32ColumnWriter(w), Column::Int(v)) => w.write_batch(v, None, None)?,
        (ColumnWriter::ByteArrayColumnWriter(w), Column::Text(v)) => {
            w.write_batch(v, None, None)?
        }
        (ColumnWriter::Int32ColumnWriter(w), Column::OptionalInt(v)) => {
            let values: Vec<i32> = v.iter().flatten().copied().collect();
            w.write_batch(&values, Some(&levels(v)), None)?
        }
        (ColumnWriter::ByteArrayColumnWriter(w), Column::OptionalText(v)) => {
            let values: Vec<ByteArray> = v.iter().flatten().cloned().collect();
            w.write_batch(&values, Some(&levels(v)), None)?
        }
        (ColumnWriter::FixedLenByteArrayColumnWriter(w), Column::Fixed(width, v)) => {
            let bytes = Bytes::from(std::mem::take(v));
            let value = |at| ByteArray::from(bytes.slice(at..at + *width)).into();
            let values: Vec<FixedLenByteArray> =
                (0..bytes.len()).step_by(*width).map(value).collect();
            w.write_batch(&values, None, None)?
        }
        _ => return Err(FileError::Schema),
    };
    column.clear();
    Ok(())
}

fn levels<T>(values: &[Option<T>]) -> Vec<i16> {
    values.iter().map(|v| i16::from(v.is_some())).collect()
}

/// An open Parquet file of ours.
pub(crate) struct Reader<R: ChunkReader> {
    file: SerializedFileReader<R>,
}

impl<R: ChunkReader + 'static> Reader<R> {
    pub(crate) fn open(input: R, name: &str, specs: &[Spec]) -> Result<Self, FileError> {
        let options = ReadOptionsBuilder::new().with_page_index().build();
        let file = SerializedFileReader::new_with_options(input, options)?;
        let found = file.metadata().file_metadata().schema_descr().root_schema().clone();
        if found != *schema(name, specs)? {
            return Err(FileError::Schema);
        }
        Ok(Self { file })
    }

    pub(crate) fn rows(&self) -> u64 {
        u64::try_from(self.file.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// Appends the rows `range` of the file's columns `from..` to `columns`.
    pub(crate) fn read(
        &self,
        range: Range<u64>,
        from: usize,
        columns: &mut [Column],
    ) -> Result<(), FileError> {
        if range.end > self.rows() {
            return Err(FileError::Rows(range));
        }
        let mut first = 0;
        for group in 0..self.file.num_row_groups() {
            let reader = self.file.get_row_group(group)?;
            let rows = u64::try_from(reader.metadata().num_rows()).unwrap_or(0);
            let (start, end) = (range.start.max(first), range.end.min(first + rows));
            if start < end {
                for (at, column) in columns.iter_mut().enumerate() {
                    let column_reader = reader.get_column_reader(from + at)?;
                    read(column_reader, (start - first) as usize, (end - start) as usize, column)?;
                }
            }
            first += rows;
        }
        Ok(())
    }
}

fn read(
    reader: ColumnReader,
    skip: usize,
    count: usize,
    column: &mut Column,
) -> Result<(), FileError> {
    match (reader, column) {
        (ColumnReader::Int64ColumnReader(r), Column::Long(v)) => values(r, skip, count, v),
        (ColumnReader::Int32ColumnReader(r), Column::Int(v)) => values(r, skip, count, v),
        (ColumnReader::ByteArrayColumnReader(r), Column::Text(v)) => values(r, skip, count, v),
        (ColumnReader::Int32ColumnReader(r), Column::OptionalInt(v)) => optional(r, skip, count, v),
        (ColumnReader::ByteArrayColumnReader(r), Column::OptionalText(v)) => {
            optional(r, skip, count, v)
        }
        (ColumnReader::FixedLenByteArrayColumnReader(r), Column::Fixed(width, v)) => {
            let mut found = Vec::with_capacity(count);
            values(r, skip, count, &mut found)?;
            for value in found {
                v.extend_from_slice(value.data().get(..*width).ok_or(FileError::Schema)?);
            }
            Ok(())
        }
        _ => Err(FileError::Schema),
    }
}

fn values<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    skip: usize,
    count: usize,
    out: &mut Vec<T::T>,
) -> Result<(), FileError> {
    let skipped = reader.skip_records(skip)?;
    let (read, _, _) = reader.read_records(count, None, None, out)?;
    if (skipped, read) == (skip, count) { Ok(()) } else { Err(FileError::Schema) }
}

fn optional<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    skip: usize,
    count: usize,
    out: &mut Vec<Option<T::T>>,
) -> Result<(), FileError> {
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    let skipped = reader.skip_records(skip)?;
    let (read, _, _) = reader.read_records(count, Some(&mut levels), None, &mut values)?;
    if (skipped, read, levels.len()) != (skip, count, count) {
        return Err(FileError::Schema);
    }
    let mut values = values.into_iter();
    out.extend(levels.iter().map(|level| if *level > 0 { values.next() } else { None }));
    Ok(())
}
