//! The three servers together, private or in containers, in one folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::docker::Compose;
use crate::home::write_secret;
use crate::process::ProcessId;
use crate::server::Kind;
use crate::urls::Urls;
use crate::{Postgres, RabbitMq, Redis, Server, postgres};

/// The persistent record of a set, written before anything of it is started.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    /// The run that ends the servers when it ends; `None` if they stay until they are stopped.
    owner: Option<ProcessId>,
    /// There if the servers run in containers.
    compose: Option<Compose>,
}

/// The folder of one set.
#[derive(Debug)]
pub(crate) struct Set {
    dir: PathBuf,
    manifest: Manifest,
}

impl Set {
    /// A new set, or a new start of the one that was in `dir`. Starts nothing yet.
    pub(crate) fn create(dir: PathBuf, owner: Option<ProcessId>) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let compose = Self::read(&dir)?.and_then(|earlier| earlier.manifest.compose);
        let set = Self {
            dir,
            manifest: Manifest { owner, compose },
        };
        set.write()?;
        Ok(set)
    }

    /// The set in a folder, running or not; `None` if there never was one.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>> {
        let file = dir.join("set.json");
        if !file.exists() {
            return Ok(None);
        }
        let json = fs::read(&file)?;
        let manifest = serde_json::from_slice(&json);
        let manifest = manifest.with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Some(Self {
            dir: dir.to_owned(),
            manifest,
        }))
    }

    fn write(&self) -> Result<()> {
        write_secret(
            &self.dir.join("set.json"),
            &serde_json::to_string(&self.manifest)?,
        )
    }

    /// The run that this set belongs to, alive or not.
    pub(crate) fn owner(&self) -> Option<&ProcessId> {
        self.manifest.owner.as_ref()
    }

    /// Starts the servers in containers. `root` holds `compose.yaml`.
    pub(crate) fn start_containers(&mut self, root: &Path) -> Result<Urls> {
        let compose = match self.manifest.compose.take() {
            Some(earlier) => earlier,
            None => Compose::new()?,
        };
        self.manifest.compose = Some(compose.clone());
        self.write()?;
        let outcome = compose.up(root);
        if outcome.is_err() {
            self.manifest.compose = None;
            self.write()?;
        }
        outcome.map(|()| compose.urls())
    }

    /// Starts private servers, all at once. They run on after this program.
    pub(crate) fn start_private(&self) -> Result<Urls> {
        let (postgres, redis, rabbitmq) = thread::scope(|scope| {
            let postgres = scope.spawn(|| Postgres::start(&self.dir.join("postgres")));
            let redis = scope.spawn(|| Redis::start(&self.dir.join("redis")));
            let rabbitmq = scope.spawn(|| RabbitMq::start(&self.dir.join("rabbitmq")));
            (joined(postgres), joined(redis), joined(rabbitmq))
        });
        let (postgres, redis, rabbitmq) = (postgres?, redis?, rabbitmq?);
        let urls = Urls {
            database: postgres.url(),
            redis: redis.url(),
            amqp: rabbitmq.url(),
        };
        postgres.leave_running();
        redis.leave_running();
        rabbitmq.leave_running();
        Ok(urls)
    }

    /// The servers' addresses, if all three run and answer.
    pub(crate) fn running(&self) -> Result<Option<Urls>> {
        if let Some(compose) = &self.manifest.compose {
            return Ok(compose.answers().then(|| compose.urls()));
        }
        let database = self.running_url::<postgres::PostgresKind>("postgres")?;
        let redis = self.running_url::<crate::redis::RedisKind>("redis")?;
        let amqp = self.running_url::<crate::rabbitmq::RabbitMqKind>("rabbitmq")?;
        Ok(match (database, redis, amqp) {
            (Some(database), Some(redis), Some(amqp)) => Some(Urls {
                database,
                redis,
                amqp,
            }),
            _ => None,
        })
    }

    fn running_url<K: Kind>(&self, name: &str) -> Result<Option<String>> {
        let Some(mut server) = Server::<K>::attach(&self.dir.join(name))? else {
            return Ok(None);
        };
        let url = server.answers().then(|| server.url());
        server.leave_running();
        Ok(url)
    }

    /// Stops the running servers of the set, and returns their names. Data stay.
    pub(crate) fn stop(&self, root: &Path) -> Result<Vec<&'static str>> {
        if let Some(compose) = &self.manifest.compose {
            let there_were = compose.down(root)?;
            return Ok(if there_were {
                vec!["the containers"]
            } else {
                Vec::new()
            });
        }
        // One after the other: each takes well under a second, RabbitMQ a few.
        let stopped = [
            self.stop_server::<crate::rabbitmq::RabbitMqKind>("rabbitmq")?,
            self.stop_server::<crate::redis::RedisKind>("redis")?,
            self.stop_server::<postgres::PostgresKind>("postgres")?,
        ];
        Ok(stopped.into_iter().flatten().collect())
    }

    fn stop_server<K: Kind>(&self, name: &str) -> Result<Option<&'static str>> {
        let Some(mut server) = Server::<K>::attach(&self.dir.join(name))? else {
            return Ok(None);
        };
        server.stop()?;
        Ok(Some(K::NAME))
    }

    /// Stops the set and deletes its data. Returns the names of the running servers.
    pub(crate) fn erase(self, root: &Path) -> Result<Vec<&'static str>> {
        let stopped = self.stop(root)?;
        if let Some(compose) = &self.manifest.compose {
            compose.remove(root)?;
        }
        postgres::erase(&self.dir.join("postgres"))?;
        fs::remove_dir_all(&self.dir)
            .with_context(|| format!("cannot delete {}", self.dir.display()))?;
        Ok(stopped)
    }
}

fn joined<T>(handle: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle
        .join()
        .map_err(|_| anyhow!("the thread that starts a server panicked"))?
}
