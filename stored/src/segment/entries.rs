//! The entries file: a row per entry, in log order.

use super::columns::{Column, FileError, Kind, Reader, Spec, Writer, long, text};
use meshchain_core::{BatchHeader, BatchLeaf, ENTRY_LEN, Entry, Side};
use parquet::basic::Compression;
use parquet::file::reader::ChunkReader;
use std::io::Write;
use std::ops::Range;

const TIME: &str = "required int64 / TIMESTAMP(MICROS,true)";
const TEXT: &str = "required binary / STRING";

/// The columns. What a proof needs comes last.
const SPECS: [Spec; 14] = [
    ("leaf", "required int64 / INTEGER(64,false)", Kind::Delta),
    ("index", "required int32 / INTEGER(32,false)", Kind::Delta),
    ("received", TIME, Kind::Delta),
    ("first", TIME, Kind::Delta),
    ("last", TIME, Kind::Delta),
    ("cluster", TEXT, Kind::Few),
    ("namespace", TEXT, Kind::Few),
    ("workload", TEXT, Kind::Few),
    ("pod", TEXT, Kind::Few),
    ("side", "required int32 / INTEGER(8,false)", Kind::Few),
    ("trace_id", "required fixed_len_byte_array(16)", Kind::Random),
    ("span_id", "required fixed_len_byte_array(8)", Kind::Random),
    ("hop_digest", "required fixed_len_byte_array(32)", Kind::Random),
    ("span_digest", "required fixed_len_byte_array(32)", Kind::Random),
];
const NAME: &str = "entries";
/// First column of those that make up an entry: side, then the bytes.
const PROOF: usize = 9;

fn columns() -> [Column; 14] {
    let texts = || Column::Text(Vec::new());
    let longs = || Column::Long(Vec::new());
    let fixed = |width| Column::Fixed(width, Vec::new());
    [
        longs(),
        Column::Int(Vec::new()),
        longs(),
        longs(),
        longs(),
        texts(),
        texts(),
        texts(),
        texts(),
        Column::Int(Vec::new()),
        fixed(16),
        fixed(8),
        fixed(32),
        fixed(32),
    ]
}

/// Appends the entries of leaf `index` to `columns`.
fn push(
    columns: &mut [Column; 14],
    index: u64,
    leaf: &BatchLeaf<'_>,
    header: &BatchHeader<'_>,
    entries: &[u8],
) {
    let [
        Column::Long(leaves),
        Column::Int(indexes),
        Column::Long(received),
        Column::Long(firsts),
        Column::Long(lasts),
        Column::Text(clusters),
        Column::Text(namespaces),
        Column::Text(workloads),
        Column::Text(pods),
        Column::Int(sides),
        Column::Fixed(_, trace_ids),
        Column::Fixed(_, span_ids),
        Column::Fixed(_, hop_digests),
        Column::Fixed(_, span_digests),
    ] = columns
    else {
        return;
    };
    let count = entries.len() / ENTRY_LEN;
    let source = &header.source;
    let longs = [
        (leaves, index),
        (received, leaf.received_ns / 1000),
        (firsts, header.first_ns / 1000),
        (lasts, header.last_ns / 1000),
    ];
    for (column, value) in longs {
        column.resize(column.len() + count, long(value));
    }
    let texts = [
        (clusters, source.cluster),
        (namespaces, source.namespace),
        (workloads, source.workload),
        (pods, source.pod),
    ];
    for (column, value) in texts {
        column.resize(column.len() + count, text(value.as_bytes()));
    }
    indexes.extend(0..count as i32);
    sides.extend(entries.chunks_exact(ENTRY_LEN).map(|entry| i32::from(entry[1])));
    let fields =
        [(trace_ids, 2..18), (span_ids, 18..26), (hop_digests, 26..58), (span_digests, 58..90)];
    for (column, field) in fields {
        for entry in entries.chunks_exact(ENTRY_LEN) {
            column.extend_from_slice(&entry[field.clone()]);
        }
    }
}

/// Writes an entries file.
pub struct EntriesWriter<W: Write + Send> {
    writer: Writer<W>,
    columns: [Column; 14],
}

impl<W: Write + Send> EntriesWriter<W> {
    /// A file that goes to `out`.
    pub fn new(out: W) -> Result<Self, FileError> {
        let writer = Writer::new(out, NAME, &SPECS, Compression::UNCOMPRESSED)?;
        Ok(Self { writer, columns: columns() })
    }

    /// Appends the entries (90 bytes each) of leaf `index`.
    pub fn push(
        &mut self,
        index: u64,
        leaf: &BatchLeaf<'_>,
        header: &BatchHeader<'_>,
        entries: &[u8],
    ) -> Result<(), FileError> {
        push(&mut self.columns, index, leaf, header, entries);
        self.writer.pushed(entries.len() / ENTRY_LEN, entries.len(), &mut self.columns)
    }

    /// Ends the file.
    pub fn finish(mut self) -> Result<W, FileError> {
        self.writer.finish(&mut self.columns)
    }
}

/// An entries file to read from.
pub struct EntriesFile<R: ChunkReader>(Reader<R>);

impl<R: ChunkReader + 'static> EntriesFile<R> {
    /// Opens it: reads its footer.
    pub fn open(input: R) -> Result<Self, FileError> {
        Reader::open(input, NAME, &SPECS).map(Self)
    }

    /// Number of entries.
    pub fn rows(&self) -> u64 {
        self.0.rows()
    }

    /// The entries of some rows, 90 bytes each.
    pub fn read(&self, rows: Range<u32>) -> Result<Vec<u8>, FileError> {
        let mut columns = columns();
        let proof = &mut columns[PROOF..];
        self.0.read(rows.start.into()..rows.end.into(), PROOF, proof)?;
        let [
            Column::Int(sides),
            Column::Fixed(_, traces),
            Column::Fixed(_, spans),
            Column::Fixed(_, hops),
            Column::Fixed(_, own),
        ] = &*proof
        else {
            return Err(FileError::Schema);
        };
        let mut entries = Vec::with_capacity(sides.len() * ENTRY_LEN);
        let ids = traces.as_chunks::<16>().0.iter().zip(spans.as_chunks::<8>().0);
        let digests = hops.as_chunks::<32>().0.iter().zip(own.as_chunks::<32>().0);
        for (side, ((trace_id, span_id), (hop, own))) in sides.iter().zip(ids.zip(digests)) {
            let side = u64::try_from(*side).ok().and_then(Side::from_number);
            let entry = Entry {
                side: side.ok_or(FileError::Schema)?,
                trace_id: *trace_id,
                span_id: *span_id,
                hop_digest: *hop,
                span_digest: *own,
            };
            entries.extend_from_slice(&entry.to_bytes());
        }
        Ok(entries)
    }

    /// Whether some rows are those of leaf `index` with these entries, in every column.
    pub fn holds(
        &self,
        rows: Range<u32>,
        index: u64,
        leaf: &BatchLeaf<'_>,
        header: &BatchHeader<'_>,
        entries: &[u8],
    ) -> Result<bool, FileError> {
        let (mut found, mut expected) = (columns(), columns());
        self.0.read(rows.start.into()..rows.end.into(), 0, &mut found)?;
        push(&mut expected, index, leaf, header, entries);
        Ok(found == expected)
    }
}
