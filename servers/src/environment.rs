//! Finding the three servers, or making them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::process::{Process, ProcessId};
use crate::set::Set;
use crate::urls::Urls;
use crate::{docker, install, say};

/// Timeout of a run's shutdown, in which it ends its command and its servers.
const RUN_PATIENCE: Duration = Duration::from_secs(90);

/// The servers of one working copy: those the environment names, or those recorded in its `.dev`.
///
/// `.dev/up` holds the servers that run until they are stopped, and their data.
/// `.dev/run-PID` holds those that one run made for itself, and vanishes with it.
#[derive(Debug)]
pub struct Environment {
    /// The working copy, which holds `compose.yaml`.
    root: PathBuf,
}

/// Servers for one run.
#[derive(Debug)]
pub struct Lease {
    /// Where they are.
    pub urls: Urls,
    /// There if they were made for this run.
    own: Option<(Set, PathBuf)>,
}

impl Lease {
    /// Stops what was started for this run and deletes its data. Servers that were already there
    /// are left alone.
    ///
    /// # Errors
    /// If something cannot be stopped; the next run tries again.
    pub fn end(self) -> Result<()> {
        if let Some((set, root)) = self.own {
            set.erase(&root)?;
        }
        Ok(())
    }
}

impl Environment {
    /// The servers of the working copy in `root`.
    ///
    /// # Errors
    /// If there is no such folder.
    pub fn of(root: &Path) -> Result<Self> {
        let root = root.canonicalize();
        Ok(Self {
            root: root.context("there is no such working copy")?,
        })
    }

    /// Servers for one run: those that are there, else new ones.
    ///
    /// # Errors
    /// If the servers are neither found nor can be installed and started.
    pub fn lease(&self) -> Result<Lease> {
        let lock = self.lock()?;
        if let Some(urls) = self.found()? {
            return Ok(Lease { urls, own: None });
        }
        self.clear_leftovers()?;
        let own = ProcessId::own();
        let mut set = Set::create(self.dev().join(format!("run-{}", own.pid)), Some(own))?;
        drop(lock);
        match self.start(&mut set) {
            Ok(urls) => Ok(Lease {
                urls,
                own: Some((set, self.root.clone())),
            }),
            Err(error) => {
                set.erase(&self.root)?;
                Err(error)
            }
        }
    }

    /// Servers that stay up: those that are there, else new ones.
    ///
    /// # Errors
    /// If the servers are neither found nor can be installed and started.
    pub fn up(&self) -> Result<Urls> {
        let _lock = self.lock()?;
        if let Some(urls) = self.found()? {
            return Ok(urls);
        }
        self.clear_leftovers()?;
        let mut set = Set::create(self.up_dir(), None)?;
        self.start(&mut set)
    }

    /// The servers that are there: named by the environment, or up in `.dev`.
    ///
    /// # Errors
    /// If the environment names some but not all, or a record cannot be read.
    pub fn found(&self) -> Result<Option<Urls>> {
        if let Some(urls) = Urls::from_environment()? {
            return Ok(Some(urls));
        }
        match Set::read(&self.up_dir())? {
            Some(set) => set.running(),
            None => Ok(None),
        }
    }

    /// Stops all that `.dev` records, including active runs, and returns their names.
    /// Only the data of `.dev/up` stay.
    ///
    /// # Errors
    /// If something cannot be stopped.
    pub fn down(&self) -> Result<Vec<&'static str>> {
        let _lock = self.lock()?;
        let mut ended = Vec::new();
        for dir in self.runs()? {
            match self.end_run(&dir) {
                Ok(more) => ended.extend(more),
                Err(error) => {
                    let aside = self.set_aside(&dir)?;
                    say(&format!(
                        "a run can't be ended ({error:#}); its record is in {}",
                        aside.display()
                    ));
                }
            }
        }
        if let Some(set) = Set::read(&self.up_dir())? {
            ended.extend(set.stop(&self.root)?);
        }
        Ok(ended)
    }

    fn end_run(&self, dir: &Path) -> Result<Vec<&'static str>> {
        let mut ended = Vec::new();
        let owner = Set::read(dir)?.and_then(|set| set.owner().cloned());
        if let Some(owner) = owner.filter(ProcessId::is_alive) {
            Process::adopt(owner).end(Signal::SIGTERM, RUN_PATIENCE)?;
            ended.push("a run with its servers");
        }
        ended.extend(self.erase(dir)?);
        Ok(ended)
    }

    fn start(&self, set: &mut Set) -> Result<Urls> {
        if docker::has_engine() {
            say("starting PostgreSQL, Redis and RabbitMQ in Docker");
            match set.start_containers(&self.root) {
                Ok(urls) => return Ok(urls),
                Err(error) if error.is::<docker::Interrupted>() => return Err(error),
                Err(error) => say(&format!("no containers ({error:#}); using private servers")),
            }
        }
        install::install_missing()?;
        say("starting private PostgreSQL, Redis and RabbitMQ");
        set.start_private()
    }

    /// Ends and deletes what crashed runs left behind. What can't be cleared, since its Docker
    /// engine is gone or its record was cut short, is set aside: it must not stop this run.
    fn clear_leftovers(&self) -> Result<()> {
        for dir in self.runs()? {
            if let Err(error) = self.clear_leftover(&dir) {
                let aside = self.set_aside(&dir)?;
                say(&format!(
                    "what an earlier run left can't be cleared ({error:#}); it is in {}",
                    aside.display()
                ));
            }
        }
        Ok(())
    }

    fn clear_leftover(&self, dir: &Path) -> Result<()> {
        let set = Set::read(dir)?;
        let is_owned = set
            .as_ref()
            .and_then(Set::owner)
            .is_some_and(ProcessId::is_alive);
        if !is_owned {
            self.erase(dir)?;
        }
        Ok(())
    }

    /// Renames the folder of a run so that it is no run's any more.
    fn set_aside(&self, dir: &Path) -> Result<PathBuf> {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let name = name.replacen("run-", "left-", 1);
        let taken = |n: &u32| self.dev().join(format!("{name}-{n}")).exists();
        let number = (1..).find(|n| !taken(n)).expect("a number is free");
        let aside = self.dev().join(format!("{name}-{number}"));
        fs::rename(dir, &aside).with_context(|| format!("cannot rename {}", dir.display()))?;
        Ok(aside)
    }

    fn erase(&self, dir: &Path) -> Result<Vec<&'static str>> {
        match Set::read(dir)? {
            Some(set) => set.erase(&self.root),
            // The run was cut short before it wrote anything down, or has just ended.
            None if dir.exists() => Ok(fs::remove_dir_all(dir).map(|()| Vec::new())?),
            None => Ok(Vec::new()),
        }
    }

    /// The folders of all runs.
    fn runs(&self) -> Result<Vec<PathBuf>> {
        let mut runs = Vec::new();
        for entry in fs::read_dir(self.dev())? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("run-") {
                runs.push(entry.path());
            }
        }
        Ok(runs)
    }

    /// Held while `.dev` is looked through, so that two programs do not start or clear the same.
    fn lock(&self) -> Result<File> {
        let dev = self.dev();
        fs::create_dir_all(&dev).with_context(|| format!("cannot create {}", dev.display()))?;
        let file = File::create(dev.join("lock"))?;
        file.lock().context("cannot lock .dev")?;
        Ok(file)
    }

    fn dev(&self) -> PathBuf {
        self.root.join(".dev")
    }

    fn up_dir(&self) -> PathBuf {
        self.dev().join("up")
    }
}
