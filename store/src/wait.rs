//! Storage for threads that may block.

use crate::StoreError;
use std::sync::mpsc::sync_channel;
use tokio::runtime::Handle;

/// Does `work` on the runtime and waits for it. Where the runtime ends first, [`StoreError::Ended`]: unlike
/// [`Handle::block_on`], which panics then, this may be called while the process ends, and by destructors.
/// Only for threads that may block.
pub fn wait<T: Send + 'static>(
    runtime: &Handle,
    work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    let (done, result) = sync_channel(1);
    runtime.spawn(async move {
        let _ = done.send(work.await);
    });
    // A runtime that ends drops its tasks, and with this one the sender.
    result.recv().unwrap_or(Err(StoreError::Ended))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::runtime::Runtime;

    #[test]
    fn a_runtime_that_ended_or_ends_is_an_error_and_no_panic() {
        let runtime = Runtime::new().unwrap();
        let handle = runtime.handle().clone();
        assert_eq!(wait(&handle, async { Ok(5) }).unwrap(), 5);
        let waiting = std::thread::spawn({
            let handle = handle.clone();
            move || wait(&handle, pending::<Result<(), StoreError>>())
        });
        // However far the thread has come: asked before or after the end, the answer is the same.
        drop(runtime);
        assert!(matches!(waiting.join().unwrap(), Err(StoreError::Ended)));
        let slept = wait(&handle, async {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            Ok(())
        });
        assert!(matches!(slept, Err(StoreError::Ended)));
    }
}
