//! The verifier against evidence made from scratch: a small log, real signatures, and a block that
//! no chain ever saw but that holds together.

mod anchors;
mod audit;
mod big;
mod cli;
mod fixture;
mod flips;
mod fsck;
mod given_up;
mod golden;
mod grown;
mod histories;
mod hops;
mod log_cli;
mod mirror;
mod node;
mod rpc;
mod sealed;
mod sealing;
mod server;
mod verdicts;
