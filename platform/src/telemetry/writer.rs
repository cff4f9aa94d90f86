//! Writes logs from a thread of its own: a reader of standard error that stops, or a full disk, must
//! not stop the process. Lines that find the buffer full are dropped and counted.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait.
const BUFFER: usize = 8_192;
/// How long the end of a process waits for its last lines.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

static SENDER: OnceLock<SyncSender<Message>> = OnceLock::new();

enum Message {
    Line(Vec<u8>),
    /// Everything before it was written when its receiver hears.
    Flush(SyncSender<()>),
}

/// Makes one [`Line`] for each event.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogWriter;

/// One event's text, sent when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Line(Vec<u8>);

impl LogWriter {
    /// Starts the thread.
    pub(super) fn start() -> Self {
        SENDER.get_or_init(|| {
            let (sender, receiver) = sync_channel(BUFFER);
            let writing = std::thread::Builder::new()
                .name("log".to_owned())
                .spawn(move || write_all(&receiver, io::stderr()));
            if let Err(error) = writing {
                // Without it nobody reads the buffer, and lines are counted as dropped.
                let _ = writeln!(io::stderr(), "onsale: no thread for the log: {error}");
            }
            sender
        });
        Self
    }
}

/// Waits until the lines that were logged are written, a second at most.
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
            // Nobody is left to tell when standard error is closed.
            Message::Line(line) => {
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
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line::default()
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
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
    match sender.try_send(Message::Line(line)) {
        Ok(()) => {}
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
            metrics::counter!("log_lines_dropped_total").increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Condvar, Mutex};

    use super::*;

    /// Takes nothing until it is let.
    struct Blocked(Arc<(Mutex<bool>, Condvar)>);

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (let_go, changed) = &*self.0;
            let waiting = changed.wait_while(let_go.lock().unwrap(), |let_go| !*let_go);
            drop(waiting.unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_output_that_blocks_holds_nobody_up() {
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let (sender, receiver) = sync_channel(4);
        let output = Blocked(gate.clone());
        let writing = std::thread::spawn(move || write_all(&receiver, output));
        for _ in 0..100 {
            send(&sender, b"line".to_vec());
        }
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        drop(sender);
        writing.join().unwrap();
    }
}
