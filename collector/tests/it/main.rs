//! The collector as a process: real HTTP, a real directory, real signals.

mod accept;
mod audit;
mod chain;
mod doors;
mod older_copy;
mod peers;
mod recover;
mod refuse;
mod start;
mod support;
