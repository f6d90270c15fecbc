//! `meshchain.proto` as prost reads it: the second encoder and decoder of every message.
//!
//! The fields are those of the .proto file, which documents them.
#![allow(missing_docs)]

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub struct HopPart {
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub request_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub method: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub authority: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    pub path: Vec<u8>,
    #[prost(uint32, tag = "7")]
    pub status: u32,
    #[prost(bytes = "vec", tag = "8")]
    pub overflow: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct OwnPart {
    #[prost(int32, tag = "1")]
    pub side: i32,
    #[prost(bytes = "vec", tag = "2")]
    pub parent_span_id: Vec<u8>,
    #[prost(int32, tag = "3")]
    pub sampling: i32,
    #[prost(int32, tag = "4")]
    pub context: i32,
    #[prost(bytes = "vec", tag = "5")]
    pub protocol: Vec<u8>,
    #[prost(uint64, tag = "6")]
    pub grpc_status_plus_one: u64,
    #[prost(uint64, tag = "7")]
    pub response_flags: u64,
    #[prost(bytes = "vec", tag = "8")]
    pub code_details: Vec<u8>,
    #[prost(uint64, tag = "9")]
    pub start_ns: u64,
    #[prost(uint64, tag = "10")]
    pub duration_ns: u64,
    #[prost(uint64, tag = "11")]
    pub request_bytes: u64,
    #[prost(uint64, tag = "12")]
    pub response_bytes: u64,
    #[prost(bytes = "vec", tag = "13")]
    pub peer_principal: Vec<u8>,
    #[prost(bytes = "vec", tag = "15")]
    pub cluster: Vec<u8>,
    #[prost(bytes = "vec", tag = "16")]
    pub route: Vec<u8>,
    #[prost(uint32, tag = "17")]
    pub attempts: u32,
    #[prost(bytes = "vec", tag = "18")]
    pub query: Vec<u8>,
    #[prost(bytes = "vec", tag = "19")]
    pub salt: Vec<u8>,
    #[prost(message, repeated, tag = "20")]
    pub headers: Vec<HeaderField>,
    #[prost(bytes = "vec", tag = "21")]
    pub raw_path: Vec<u8>,
    #[prost(bytes = "vec", tag = "22")]
    pub raw_authority: Vec<u8>,
    #[prost(bytes = "vec", tag = "23")]
    pub peer_session: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct HeaderField {
    #[prost(bytes = "vec", tag = "1")]
    pub name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SpanRecord {
    #[prost(bytes = "vec", tag = "1")]
    pub hop: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub own: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub path_hash: Vec<u8>,
    #[prost(bool, tag = "4")]
    pub path_dropped: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct BatchHeader {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(int32, tag = "2")]
    pub kind: i32,
    #[prost(message, optional, tag = "3")]
    pub source: Option<Source>,
    #[prost(bytes = "vec", tag = "4")]
    pub session: Vec<u8>,
    #[prost(uint64, tag = "5")]
    pub seq: u64,
    #[prost(uint32, tag = "6")]
    pub count: u32,
    #[prost(message, repeated, tag = "7")]
    pub dropped: Vec<Dropped>,
    #[prost(uint64, tag = "8")]
    pub first_ns: u64,
    #[prost(uint64, tag = "9")]
    pub last_ns: u64,
    #[prost(string, repeated, tag = "10")]
    pub notices: Vec<String>,
    #[prost(message, optional, tag = "11")]
    pub previous: Option<Previous>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Previous {
    #[prost(bytes = "vec", tag = "1")]
    pub session: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub batches: u64,
    #[prost(message, repeated, tag = "3")]
    pub dropped: Vec<Dropped>,
    #[prost(bytes = "vec", tag = "4")]
    pub public_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub signature: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Source {
    #[prost(string, tag = "1")]
    pub mesh: String,
    #[prost(string, tag = "2")]
    pub cluster: String,
    #[prost(string, tag = "3")]
    pub namespace: String,
    #[prost(string, tag = "4")]
    pub workload: String,
    #[prost(string, tag = "5")]
    pub pod: String,
    #[prost(string, tag = "6")]
    pub revision: String,
    #[prost(string, tag = "7")]
    pub filter: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct Dropped {
    #[prost(uint32, tag = "1")]
    pub reason: u32,
    #[prost(uint64, tag = "2")]
    pub count: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct BatchLeaf {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub header: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub prev: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub chain: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub entries_root: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    pub principal: Vec<u8>,
    #[prost(uint64, tag = "7")]
    pub received_ns: u64,
    #[prost(bytes = "vec", tag = "8")]
    pub public_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "9")]
    pub signature: Vec<u8>,
}
