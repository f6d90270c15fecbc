//! The verifier's fsck over a log in memory.

use futures::executor::block_on;
use meshchain::log::{FsckVerdict, Item, LogKey, LogSource, SourceError, fsck};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt};
use std::fs::File;
use std::io::{Seek, Write};

/// Panics with what fsck says where it is not clean.
pub(crate) fn assert_clean(objects: &InMemory, key: &LogKey) {
    let report = fsck(&Objects(objects), key, &mut |_, _| {});
    assert_eq!(report.verdict, FsckVerdict::Clean, "{report:#?}");
}

struct Objects<'a>(&'a InMemory);

impl LogSource for Objects<'_> {
    fn get(&self, name: &str, _: u64) -> Result<Option<Vec<u8>>, SourceError> {
        match block_on(self.0.get(&Path::from(name))) {
            Ok(found) => Ok(Some(block_on(found.bytes()).unwrap().to_vec())),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(e) => panic!("{name}: {e}"),
        }
    }

    fn list(&self, folder: &str) -> Result<Option<Vec<Item>>, SourceError> {
        let found = block_on(self.0.list_with_delimiter(Some(&Path::from(folder)))).unwrap();
        let folders = found.common_prefixes.into_iter().map(|path| (path, true));
        let objects = found.objects.into_iter().map(|meta| (meta.location, false));
        let named = |(path, folder): (Path, bool)| Item { name: path.to_string(), folder };
        let mut items: Vec<Item> = folders.chain(objects).map(named).collect();
        items.sort_unstable();
        Ok(Some(items))
    }

    fn file(&self, name: &str) -> Result<Option<File>, SourceError> {
        let Some(bytes) = self.get(name, u64::MAX)? else { return Ok(None) };
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file.rewind().unwrap();
        Ok(Some(file))
    }

    fn name(&self) -> String {
        "memory".to_owned()
    }
}
