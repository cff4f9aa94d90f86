//! Asynchronous log writer with a bounded buffer: a stalled reader of standard error, or a full
//! disk, must not block the process. Lines beyond the buffer are dropped and counted.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Capacity of the buffer, in lines.
const BUFFER: usize = 8_192;
/// Timeout of a flush.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

static SENDER: OnceLock<SyncSender<Message>> = OnceLock::new();

enum Message {
    LogLine(Vec<u8>),
    /// Acknowledged when everything before it is written.
    Flush(SyncSender<()>),
}

/// Creates one [`LogLine`] per event.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogWriter;

/// One event's text, sent when it is dropped.
#[derive(Debug, Default)]
pub(super) struct LogLine(Vec<u8>);

impl LogWriter {
    /// Starts the thread.
    pub(super) fn start() -> Self {
        SENDER.get_or_init(|| {
            let (sender, receiver) = sync_channel(BUFFER);
            let writing = std::thread::Builder::new()
                .name("log".to_owned())
                .spawn(move || write_all(&receiver, io::stderr()));
            if let Err(error) = writing {
                // Without the thread the buffer fills up, and lines are counted as dropped.
                let _ = writeln!(io::stderr(), "onsale: no thread for the log: {error}");
            }
            sender
        });
        Self
    }
}

/// Waits until all logged lines are written, a second at most.
pub fn flush() {
    let Some(sender) = SENDER.get() else { return };
    let (done, written) = sync_channel(1);
    if sender.try_send(Message::Flush(done)).is_ok() {
        // The process ends either way.
        let _late: Result<(), RecvTimeoutError> = written.recv_timeout(FLUSH_LIMIT);
    }
}

fn write_all(lines: &Receiver<Message>, mut output: impl Write) {
    while let Ok(message) = lines.recv() {
        match message {
            // Nothing can be done when standard error is closed.
            Message::LogLine(line) => {
                let _closed = output.write_all(&line);
            }
            Message::Flush(done) => {
                let _ = output.flush();
                let _gone = done.send(());
            }
        }
    }
}

impl MakeWriter<'_> for LogWriter {
    type Writer = LogLine;

    fn make_writer(&self) -> LogLine {
        LogLine::default()
    }
}

impl Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogLine {
    fn drop(&mut self) {
        let line = std::mem::take(&mut self.0);
        if line.is_empty() {
            return;
        }
        if let Some(sender) = SENDER.get() {
            send(sender, line);
        }
    }
}

fn send(sender: &SyncSender<Message>, line: Vec<u8>) {
    match sender.try_send(Message::LogLine(line)) {
        Ok(()) => {}
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
            metrics::counter!("log_lines_dropped_total").increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Reports each write that begins, and blocks it until a permit comes.
    struct Blocked {
        begun: std::sync::mpsc::Sender<()>,
        permits: Receiver<()>,
    }

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.begun.send(()).unwrap();
            self.permits.recv_timeout(PATIENCE).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_beyond_the_buffer_of_a_blocked_output_are_dropped_and_counted() {
        const BUFFERED: usize = 4;
        const DROPPED: usize = 95;
        let recorder = PrometheusBuilder::new().build_recorder();
        let measured = recorder.handle();
        let (begun, has_begun) = channel();
        let (permit, permits) = channel();
        let (sender, receiver) = sync_channel(BUFFERED);
        let output = Blocked { begun, permits };
        let writing = std::thread::spawn(move || write_all(&receiver, output));
        metrics::with_local_recorder(&recorder, || {
            send(&sender, b"line".to_vec());
            has_begun.recv_timeout(PATIENCE).unwrap();
            for _ in 0..BUFFERED + DROPPED {
                send(&sender, b"line".to_vec());
            }
        });
        let counted = format!("log_lines_dropped_total {DROPPED}\n");
        assert!(
            measured.render().contains(&counted),
            "{}",
            measured.render()
        );

        drop(sender);
        for _ in 0..=BUFFERED {
            permit.send(()).unwrap();
        }
        writing.join().unwrap();
        assert_eq!(
            has_begun.iter().count(),
            BUFFERED,
            "each other line is written once"
        );
    }
}
