//! Logs, traces and metrics of a process.

mod help;
mod metrics;
mod process;
mod throttle;
mod trace;
mod writer;

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;
use writer::LogWriter;

pub use help::MetricHelp;
pub use metrics::{render, run_upkeep};
pub use throttle::Throttle;
pub use trace::{TraceContext, span_for};
pub use writer::flush;

/// The default log filter.
const DEFAULT_FILTER: &str = "info,sqlx=warn,hyper=warn";
/// lapin's warnings would show whole messages, with the personal data in them: they are left out
/// of every filter that does not name it.
const WITHOUT_MESSAGES: &str = "lapin=error";

/// Installs the log writer (to standard error) and the metrics recorder, once per process; later
/// calls do nothing. Without a `filter` the one in `RUST_LOG` counts.
pub fn init(format: LogFormat, filter: Option<&str>) {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        metrics::install();
        let registry = tracing_subscriber::registry().with(env_filter(filter));
        let layer = tracing_subscriber::fmt::layer().with_writer(LogWriter::start());
        // A program that embeds us may have its own subscriber; it stays.
        let installed = match format {
            LogFormat::Json => registry
                .with(layer.json().flatten_event(true).with_current_span(false))
                .try_init(),
            LogFormat::Text => registry
                .with(layer.with_ansi(std::io::stderr().is_terminal()))
                .try_init(),
        };
        if let Err(error) = installed {
            tracing::debug!(%error, "logs go to the subscriber that was there");
        }
    });
}

fn env_filter(filter: Option<&str>) -> EnvFilter {
    let directives = filter
        .map(str::to_owned)
        .or_else(|| std::env::var("RUST_LOG").ok())
        .filter(|directives| !directives.is_empty())
        .unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    EnvFilter::builder().parse_lossy(without_messages(directives))
}

fn without_messages(directives: String) -> String {
    if directives.contains("lapin") {
        return directives;
    }
    format!("{directives},{WITHOUT_MESSAGES}")
}

/// Log lines of a unit test.
#[cfg(test)]
pub(crate) mod captured {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing::{Dispatch, Level};

    use crate::sync::MutexExt as _;

    struct Writer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Writer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock_unpoisoned().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A second dispatcher, to be held while a thread has one of its own. Beside that one alone a
    /// call site is disabled for good if a thread without any, another test's, comes to it first.
    pub(crate) fn another() -> Dispatch {
        Dispatch::new(tracing_subscriber::registry())
    }

    /// Returns the warnings and errors that `work` logs on this thread.
    pub(crate) fn warnings(work: impl FnOnce()) -> Vec<String> {
        let _another = another();
        let written = Arc::new(Mutex::new(Vec::new()));
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::WARN)
            .with_ansi(false)
            .with_writer(move || Writer(writer.clone()))
            .finish();
        tracing::subscriber::with_default(subscriber, work);
        let written = written.lock_unpoisoned();
        let lines = std::str::from_utf8(&written).unwrap().lines();
        lines.map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_filter_shows_whole_messages_unless_it_says_so() {
        assert_eq!(without_messages("info".to_owned()), "info,lapin=error");
        assert_eq!(without_messages("lapin=debug".to_owned()), "lapin=debug");
        assert!(without_messages(DEFAULT_FILTER.to_owned()).ends_with(WITHOUT_MESSAGES));
    }
}
