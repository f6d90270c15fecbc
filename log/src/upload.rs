//! An object that a thread writes part by part.

use meshchain_store::{Store, StoreError, wait};
use std::io::{self, Write};
use tokio::runtime::Handle;

/// Bytes of an upload that are sent at once.
const PART_BYTES: usize = 8 << 20;

/// Writes an object part by part. Only for threads that may block. Where it is dropped before it is complete, nothing is left of it.
pub(crate) struct Upload {
    name: String,
    /// Taken while a part is written, and for good by its end.
    parts: Option<meshchain_store::Upload>,
    runtime: Handle,
    waiting: Vec<u8>,
    sent: u64,
}

impl Upload {
    /// Begins to write an object.
    pub(crate) fn begin(store: &Store, runtime: &Handle, name: String) -> Result<Self, StoreError> {
        let (store, of) = (store.clone(), name.clone());
        let parts = wait(runtime, async move { store.upload(&of).await })?;
        let runtime = runtime.clone();
        Ok(Self { name, parts: Some(parts), runtime, waiting: Vec::new(), sent: 0 })
    }

    fn send(&mut self) -> Result<(), StoreError> {
        let mut parts = self.parts.take().ok_or_else(|| StoreError::missing(&self.name))?;
        let part = std::mem::take(&mut self.waiting);
        self.sent += part.len() as u64;
        let (parts, put) = wait(&self.runtime, async move {
            let put = parts.put(part).await;
            Ok((parts, put))
        })?;
        self.parts = Some(parts);
        put
    }

    /// Makes the object; its length.
    pub(crate) fn complete(mut self) -> Result<u64, StoreError> {
        if !self.waiting.is_empty() {
            self.send()?;
        }
        let parts = self.parts.take().ok_or_else(|| StoreError::missing(&self.name))?;
        wait(&self.runtime, parts.complete())?;
        Ok(self.sent)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take()
            && let Err(error) = wait(&self.runtime, parts.call_off())
        {
            log::warn!("parts of {} are left: {error}", self.name);
        }
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= PART_BYTES {
            self.send().map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
