use std::net::SocketAddr;
use std::time::Duration;

use domain::clock::SharedClock;
use platform::config::PlatformConfig;
use platform::service::{Context, Routes};
use platform::testing::serve_consuming;
use tokio::runtime::{Builder, Runtime};

/// Longest time until the tasks of a crashed node are dropped, and those of others leave.
const LIMIT: Duration = Duration::from_secs(20);

/// One process of the pipeline. When it crashes, its tasks are dropped where they are and its
/// connections break.
pub(crate) struct Node {
    runtime: Runtime,
    ctx: Context,
    public: SocketAddr,
    pub(crate) internal: SocketAddr,
}

impl Node {
    pub(crate) async fn start<F, Fut>(config: PlatformConfig, clock: SharedClock, start: F) -> Self
    where
        F: FnOnce(Context) -> Fut + Send + 'static,
        Fut: Future<Output = anyhow::Result<Routes>> + Send,
    {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let starting = runtime.spawn(async move {
            let ctx = Context::connect("test", config, clock).await.unwrap();
            let routes = start(ctx.clone()).await.unwrap();
            let running = serve_consuming(&ctx, routes).await;
            (ctx, running.public_addr, running.internal_addr)
        });
        let (ctx, public, internal) = starting.await.unwrap();
        Self {
            runtime,
            ctx,
            public,
            internal,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.public)
    }

    /// Crashes, as by a power cut.
    pub(crate) async fn crash(self) {
        let Self { runtime, ctx, .. } = self;
        drop(ctx);
        let dropping = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(LIMIT));
        dropping.await.unwrap();
    }

    /// Shuts down as on SIGTERM.
    pub(crate) async fn stop(self) {
        let shutdown = self.ctx.shutdown.clone();
        shutdown.soft().cancel();
        let left = tokio::time::timeout(LIMIT, shutdown.tasks_left()).await;
        assert!(left.is_ok(), "tasks did not leave");
        assert_eq!(shutdown.crashed(), None, "a task failed");
        self.crash().await;
    }
}
