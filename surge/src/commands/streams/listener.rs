//! A client of the stream.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use chrono::{DateTime, Utc};
use domain::EventId;
use domain::clock::{Clock as _, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;

/// Streams per source address; fewer than its ephemeral ports.
const PER_ADDRESS: u32 = 10_000;
const BUFFER_BYTES: usize = 8 * 1024;

/// A snapshot that has arrived.
pub(super) struct Arrival {
    pub(super) seq: i64,
    /// Time at which it was taken; only the first listener parses it.
    pub(super) taken: Option<DateTime<Utc>>,
    /// Time of arrival.
    pub(super) at: DateTime<Utc>,
}

pub(super) struct Listener {
    stream: TcpStream,
    is_first: bool,
}

impl Listener {
    /// Opens the stream of `event_id`'s sale, from one of several loopback addresses.
    pub(super) async fn open(
        target: SocketAddr,
        event_id: EventId,
        number: u32,
    ) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        let source = Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + number / PER_ADDRESS);
        socket.bind(SocketAddr::from((source, 0)))?;
        let mut stream = socket.connect(target).await?;
        let request = format!(
            "GET /api/events/{event_id}/queue/stream HTTP/1.1\r\nhost: {target}\r\naccept: \
             text/event-stream\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        Ok(Self {
            stream,
            is_first: number == 0,
        })
    }

    /// Reports each snapshot until the stream ends. An event arrives in one read, since the server
    /// writes it at once and it is far smaller than a loopback segment; consecutive events may
    /// arrive together.
    pub(super) async fn listen(mut self, arrivals: mpsc::UnboundedSender<Arrival>) {
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Ok(read @ 1..) = self.stream.read(&mut buffer).await {
            let at = SystemClock.now();
            let text = String::from_utf8_lossy(&buffer[..read]);
            for (seq, event) in events(&text) {
                let taken = if self.is_first {
                    between(event, "\"at\":\"", '"').and_then(|taken| taken.parse().ok())
                } else {
                    None
                };
                if arrivals.send(Arrival { seq, taken, at }).is_err() {
                    return;
                }
            }
        }
    }
}

/// Returns the seq and the rest of each event in `text`.
fn events(text: &str) -> impl Iterator<Item = (i64, &str)> {
    text.split("\nid: ").skip(1).filter_map(|event| {
        let (seq, rest) = event.split_once('\n')?;
        Some((seq.parse().ok()?, rest))
    })
}

fn between<'a>(text: &'a str, before: &str, after: char) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(inside, _)| inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_come_together_each_tell_their_number_and_their_time() {
        let event = |seq: i64, day: i64| {
            format!(
                "event: snapshot\nid: {seq}\nretry: 3000\n\
                 data: {{\"at\":\"2026-01-0{day}T00:00:00Z\"}}\n\n"
            )
        };
        let text = event(17, 1) + ": alive\n\n" + &event(18, 2);
        let versions: Vec<_> = events(&text)
            .map(|(seq, rest)| (seq, between(rest, "\"at\":\"", '"').unwrap()))
            .collect();
        assert_eq!(
            versions,
            [(17, "2026-01-01T00:00:00Z"), (18, "2026-01-02T00:00:00Z")]
        );
        assert_eq!(events(": alive\n\n").count(), 0);
    }
}
