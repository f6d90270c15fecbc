//! The records file: a row per record, in log order, with the columns that queries ask for.

use super::columns::{Column, FileError, Kind, Reader, Spec, Writer, long, text, zstd};
use meshchain_core::record::ShownPath;
use meshchain_core::{BatchHeader, Canonical, HopPart, OwnPart, SpanRecord};
use parquet::data_type::ByteArray;
use parquet::file::reader::ChunkReader;
use std::io::Write;
use std::ops::Range;

const TEXT: &str = "required binary / STRING";

/// The columns. `path` is null where the record withholds it, `grpc_status` where the call was none.
const SPECS: [Spec; 17] = [
    ("leaf", "required int64 / INTEGER(64,false)", Kind::Delta),
    ("index", "required int32 / INTEGER(32,false)", Kind::Delta),
    ("start", "required int64 / TIMESTAMP(MICROS,true)", Kind::Delta),
    ("duration_ns", "required int64 / INTEGER(64,false)", Kind::Delta),
    ("namespace", TEXT, Kind::Few),
    ("workload", TEXT, Kind::Few),
    ("side", "required int32 / INTEGER(8,false)", Kind::Few),
    ("peer", TEXT, Kind::Few),
    ("method", TEXT, Kind::Few),
    ("authority", TEXT, Kind::Few),
    ("path", "optional binary / STRING", Kind::Few),
    ("status", "required int32 / INTEGER(32,false)", Kind::Few),
    ("grpc_status", "optional int32 / INTEGER(32,false)", Kind::Few),
    ("response_flags", "required int64 / INTEGER(64,false)", Kind::Few),
    ("trace_id", "required fixed_len_byte_array(16)", Kind::Random),
    ("span_id", "required fixed_len_byte_array(8)", Kind::Random),
    ("record", "required binary", Kind::Many),
];
const NAME: &str = "records";
/// The column with the canonical bytes.
const RECORD: usize = 16;

#[derive(Debug, PartialEq)]
struct Columns([Column; 17]);

impl Columns {
    fn new() -> Self {
        let texts = || Column::Text(Vec::new());
        let longs = || Column::Long(Vec::new());
        let ints = || Column::Int(Vec::new());
        Self([
            longs(),
            ints(),
            longs(),
            longs(),
            texts(),
            texts(),
            ints(),
            texts(),
            texts(),
            texts(),
            Column::OptionalText(Vec::new()),
            ints(),
            Column::OptionalInt(Vec::new()),
            longs(),
            Column::Fixed(16, Vec::new()),
            Column::Fixed(8, Vec::new()),
            texts(),
        ])
    }

    fn push(&mut self, leaf: u64, index: u32, header: &BatchHeader<'_>, bytes: &[u8]) {
        let record = SpanRecord::decode(bytes).unwrap_or_default();
        let hop = HopPart::decode(record.hop).unwrap_or_default();
        let own = OwnPart::decode(record.own).unwrap_or_default();
        let [
            Column::Long(leaves),
            Column::Int(indexes),
            Column::Long(starts),
            Column::Long(durations),
            Column::Text(namespaces),
            Column::Text(workloads),
            Column::Int(sides),
            Column::Text(peers),
            Column::Text(methods),
            Column::Text(authorities),
            Column::OptionalText(paths),
            Column::Int(statuses),
            Column::OptionalInt(grpc_statuses),
            Column::Long(flags),
            Column::Fixed(_, trace_ids),
            Column::Fixed(_, span_ids),
            Column::Text(records),
        ] = &mut self.0
        else {
            return;
        };
        leaves.push(long(leaf));
        indexes.push(index as i32);
        starts.push(long(own.start_ns / 1000));
        durations.push(long(own.duration_ns));
        namespaces.push(text(header.source.namespace.as_bytes()));
        workloads.push(text(header.source.workload.as_bytes()));
        sides.push(own.side as i32);
        peers.push(text(own.peer_principal));
        methods.push(text(hop.method));
        authorities.push(text(hop.authority));
        paths.push((record.path == ShownPath::Whole).then(|| text(hop.path)));
        statuses.push(hop.status as i32);
        grpc_statuses.push(own.grpc_status.map(|status| status as i32));
        flags.push(long(own.response_flags));
        trace_ids.extend_from_slice(&hop.trace_id.map_or([0; 16], |id| id.0));
        span_ids.extend_from_slice(&hop.span_id.map_or([0; 8], |id| id.0));
        records.push(ByteArray::from(bytes.to_vec()));
    }
}

/// Writes a records file.
pub struct RecordsWriter<W: Write + Send> {
    writer: Writer<W>,
    columns: Columns,
}

impl<W: Write + Send> RecordsWriter<W> {
    /// A file that goes to `out`.
    pub fn new(out: W) -> Result<Self, FileError> {
        Ok(Self { writer: Writer::new(out, NAME, &SPECS, zstd())?, columns: Columns::new() })
    }

    /// Appends the canonical record of the entry `index` of leaf `leaf`.
    pub fn push(
        &mut self,
        leaf: u64,
        index: u32,
        header: &BatchHeader<'_>,
        record: &[u8],
    ) -> Result<(), FileError> {
        self.columns.push(leaf, index, header, record);
        self.writer.pushed(1, 2 * record.len(), &mut self.columns.0)
    }

    /// Ends the file.
    pub fn finish(mut self) -> Result<W, FileError> {
        self.writer.finish(&mut self.columns.0)
    }
}

/// A records file to read from.
pub struct RecordsFile<R: ChunkReader>(Reader<R>);

impl<R: ChunkReader + 'static> RecordsFile<R> {
    /// Opens it: reads its footer.
    pub fn open(input: R) -> Result<Self, FileError> {
        Reader::open(input, NAME, &SPECS).map(Self)
    }

    /// Number of records.
    pub fn rows(&self) -> u64 {
        self.0.rows()
    }

    /// The canonical records of some rows.
    pub fn read(&self, rows: Range<u32>) -> Result<Vec<Vec<u8>>, FileError> {
        let mut column = [Column::Text(Vec::new())];
        self.0.read(rows.start.into()..rows.end.into(), RECORD, &mut column)?;
        let [Column::Text(records)] = column else {
            return Err(FileError::Schema);
        };
        Ok(records.iter().map(|record| record.data().to_vec()).collect())
    }

    /// Whether some rows are those of leaf `leaf`, in every column, judged by their records.
    pub fn holds(
        &self,
        rows: Range<u32>,
        leaf: u64,
        header: &BatchHeader<'_>,
    ) -> Result<bool, FileError> {
        let (mut found, mut expected) = (Columns::new(), Columns::new());
        let records = self.read(rows.clone())?;
        for (index, record) in (0..).zip(&records) {
            expected.push(leaf, index, header, record);
        }
        self.0.read(rows.start.into()..rows.end.into(), 0, &mut found.0)?;
        Ok(found == expected)
    }
}
