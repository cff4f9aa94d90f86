use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

/// A folder for one test, deleted with it.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = env::temp_dir().join(format!("onsale-servers-{}-{number}", process::id()));
        fs::create_dir(&dir).unwrap();
        Self(dir.canonicalize().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The command lines of all processes that work in this folder.
    pub(crate) fn processes(&self) -> Vec<String> {
        let dir = self.0.to_str().unwrap();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let read = |name| fs::read(entry.path().join(name)).unwrap_or_default();
            let text = [read("cmdline"), read("environ")].concat();
            let folder = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            if String::from_utf8_lossy(&text).contains(dir) || folder.starts_with(dir) {
                found.push(String::from_utf8_lossy(&read("cmdline")).replace('\0', " "));
            }
        }
        found
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        servers::erase(&self.0).unwrap();
    }
}
