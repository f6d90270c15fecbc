//! The formats of what a log stores and serves.

use bytes::Bytes;
use meshchain_core::SessionId;
use meshchain_core::entries_page::{encode_page, split_page};
use meshchain_core::tile::{TileKind, TileName, put_entry, split_bundle};
use meshchain_stored::audit_line::AuditLine;
use meshchain_stored::sealed::SealedState;
use meshchain_stored::staging::{self, StagingWriter};
use meshchain_stored::{Block, TableLayout, heard, table_path};
use meshchain_tests::vector::{bytes, plain_hex};
use serde_json::Value;

/// Each session of the input is found where index and rows lead to.
pub fn session_table(json: &Value, encoded: &[u8]) -> Result<(), String> {
    let cut = |range: std::ops::Range<u64>| {
        let found = encoded.get(range.start as usize..range.end as usize);
        Bytes::copy_from_slice(found.unwrap_or_default())
    };
    let len = encoded.len() as u64;
    let layout = TableLayout::parse(&cut(len - TableLayout::TAIL..len), len);
    let layout = layout.map_err(|e| e.to_string())?;
    let index = layout.index(cut(layout.index_at())).map_err(|e| e.to_string())?;
    let blocks: Vec<Block> = (0..).map_while(|at| index.block(at)).collect();
    let read = |block: &Block| block.read(&cut(block.all.clone())).map_err(|e| e.to_string());
    let read = blocks.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    assert_eq!(table_path(&layout.name), json["name"]);
    let sessions = json["input"]["sessions"].as_array().unwrap();
    assert_eq!(read.iter().map(Vec::len).sum::<usize>(), sessions.len());
    assert_eq!(layout.rows as usize, sessions.len());
    for given in sessions {
        let id: SessionId = plain_hex(&given[0]).try_into().unwrap();
        assert!(index.may_hold(&id));
        let at = index.block_of(&id);
        let (row, state) = read[at].iter().find(|(row, _)| row.id == id).unwrap();
        let session = row.session(state).unwrap();
        assert_eq!(serde_json::to_value(&session).unwrap(), given[1]);
        assert_eq!(row.heard_ns, heard(&session));
        assert!(row.heard_ns <= blocks[at].newest_ns && blocks[at].newest_ns <= index.newest_ns());
    }
    Ok(())
}

pub fn entries_page(json: &Value, encoded: &[u8]) -> Result<(), String> {
    let leaves = split_page(encoded).map_err(|e| e.to_string())?;
    let given: Vec<_> = json["input"]["leaves"].as_array().unwrap().iter().map(bytes).collect();
    assert_eq!(leaves, given);
    assert_eq!(encode_page(&given), encoded);
    Ok(())
}

/// The parts are those of the input, and give the bundle again.
pub fn staging_bundle(json: &Value, encoded: &[u8]) -> Result<(), String> {
    let (slices, sum) = staging::parse(encoded).map_err(|e| e.to_string())?;
    let leaves = json["input"]["leaves"].as_array().unwrap();
    assert_eq!(slices.len(), leaves.len());
    let mut writer = StagingWriter::default();
    for (found, given) in slices.iter().zip(leaves) {
        let records: Vec<_> = given["records"].as_array().unwrap().iter().map(bytes).collect();
        let within = staging::records(encoded, found.records());
        let there: Vec<_> = within.map(|record| encoded[record.unwrap()].to_vec()).collect();
        assert_eq!(there, records);
        assert_eq!(encoded[found.leaf()], bytes(&given["leaf"]));
        assert_eq!(encoded[found.entries()], bytes(&given["entries"]));
        writer.push(&encoded[found.leaf()], &encoded[found.entries()], &records);
    }
    assert_eq!(writer.finish(), (encoded.to_vec(), slices, sum));
    let first = json["input"]["first"].as_u64().unwrap();
    assert_eq!(staging::name(first, &sum), json["name"]);
    assert_eq!(staging::first_of(&staging::name(first, &sum)), Some(first));
    Ok(())
}

pub fn tile_name(json: &Value, text: &str) -> Result<(), String> {
    let name = TileName::parse(text).ok_or("not a tile name")?;
    let i = &json["input"];
    let kind = match i["level"].as_u64() {
        Some(level) => TileKind::Hashes(level as u8),
        None => TileKind::Entries,
    };
    let number = |member: &str| i[member].as_u64().unwrap();
    let (index, width) = (number("index"), number("width") as u16);
    assert_eq!(name, TileName { kind, index, width });
    assert_eq!(name.path(), text);
    Ok(())
}

pub fn bundle(json: &Value, encoded: &[u8]) -> Result<(), String> {
    let entries = split_bundle(encoded).ok_or("not an entry bundle")?;
    let there: Vec<_> = json["input"]["entries"].as_array().unwrap().iter().map(bytes).collect();
    assert_eq!(entries, there);
    let mut again = Vec::new();
    assert!(entries.iter().all(|entry| put_entry(&mut again, entry)));
    assert_eq!(again, encoded);
    Ok(())
}

pub fn sealed(json: &Value, text: &str) -> Result<(), String> {
    let state = SealedState::parse(text.as_bytes()).map_err(|e| e.to_string())?;
    assert_eq!(state.to_bytes(), text.as_bytes());
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), json["input"]);
    Ok(())
}

pub fn audit_line(json: &Value, text: &str) -> Result<(), String> {
    let line = AuditLine::parse(text).map_err(|e| e.to_string())?;
    assert_eq!(line.print(), text);
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), json["input"]);
    Ok(())
}
