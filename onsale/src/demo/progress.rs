//! The live view of the sale: a picture on a terminal, a line every five seconds elsewhere.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use console::Term;
use stand_ins::Inbox;
use stand_ins::mail::Mail;
use surge::buyer::Funnel;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::DemoArgs;
use super::house::Shown;
use super::picture::{self, Figures, grouped};
use crate::say;

const FRAME: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The view and its funnel; dropping it stops the drawing and puts the cursor below the picture.
pub(super) struct Progress {
    funnel: Arc<Funnel>,
    canvas: SharedCanvas,
    stop: CancellationToken,
    drawing: AbortOnDropHandle<()>,
}

impl Progress {
    /// Starts drawing the sale of this size.
    pub(super) fn start(
        args: &DemoArgs,
        house: watch::Receiver<Shown>,
        inbox: Inbox<Mail>,
    ) -> Self {
        let funnel = Arc::new(Funnel::default());
        let stop = CancellationToken::new();
        let view = View {
            funnel: Arc::clone(&funnel),
            house,
            inbox,
            buyers: u64::from(args.buyers),
            seats: u64::from(args.seats),
            rate_per_minute: u64::from(args.rate),
            started: Instant::now(),
            stop: stop.clone(),
        };
        let term = Term::stderr();
        let canvas = SharedCanvas::default();
        let drawing = if has_room(&term) {
            *canvas.lock().unwrap_or_else(PoisonError::into_inner) = Some(Canvas::open(term));
            tokio::spawn(view.pictures(Arc::clone(&canvas)))
        } else {
            tokio::spawn(view.lines())
        };
        Self {
            funnel,
            canvas,
            stop,
            drawing: AbortOnDropHandle::new(drawing),
        }
    }

    /// The counters that buyers increment.
    pub(super) fn funnel(&self) -> &Arc<Funnel> {
        &self.funnel
    }

    /// Draws once more and stops.
    pub(super) async fn finish(mut self) {
        self.stop.cancel();
        // A view that panicked must not end the demo.
        let _panicked = (&mut self.drawing).await;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let mut canvas = self.canvas.lock().unwrap_or_else(PoisonError::into_inner);
        drop(canvas.take());
    }
}

/// Returns whether the terminal can show a picture and redraw it.
fn has_room(term: &Term) -> bool {
    let is_dumb = std::env::var("TERM").is_ok_and(|name| name == "dumb");
    let size = term.size_checked();
    let is_large =
        size.is_some_and(|(rows, columns)| usize::from(rows) > picture::ROWS + 1 && columns >= 80);
    term.is_term() && !is_dumb && is_large
}

struct View {
    funnel: Arc<Funnel>,
    house: watch::Receiver<Shown>,
    inbox: Inbox<Mail>,
    buyers: u64,
    seats: u64,
    rate_per_minute: u64,
    started: Instant,
    stop: CancellationToken,
}

impl View {
    async fn pictures(self, canvas: SharedCanvas) {
        let mut history = History::default();
        let mut frames = interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let is_last = tokio::select! {
                _ = frames.tick() => false,
                () = self.stop.cancelled() => true,
            };
            history.record(self.started.elapsed(), &self.funnel);
            let picture = self.picture(&history);
            if let Some(canvas) = &mut *canvas.lock().unwrap_or_else(PoisonError::into_inner) {
                canvas.draw(&picture);
            }
            if is_last {
                return;
            }
        }
    }

    fn picture(&self, history: &History) -> [String; picture::ROWS] {
        let house = self.house.borrow().clone();
        picture::draw(&Figures {
            since_opening: self.started.elapsed(),
            buyers: self.buyers,
            seats: self.seats,
            rate_per_minute: self.rate_per_minute,
            house: &house,
            counts: self.funnel.counts(),
            latencies: self.funnel.latencies(),
            mails: self.inbox.len() as u64,
            let_in: &history.let_in.each,
            requests: &history.requests.each,
        })
    }

    async fn lines(self) {
        say(" time  in queue  let in  got seats    paid  got tickets   mails    seats sold");
        let mut ticks = interval(LINE_EVERY);
        ticks.tick().await;
        loop {
            let is_last = tokio::select! {
                _ = ticks.tick() => false,
                () = self.stop.cancelled() => true,
            };
            say(self.line());
            if is_last {
                return;
            }
        }
    }

    fn line(&self) -> String {
        let counts = self.funnel.counts();
        let sold = grouped(self.house.borrow().sold);
        format!(
            "{:>5}  {:>8}  {:>6}  {:>9}  {:>6}  {:>11}  {:>6}  {:>12}",
            picture::clock(self.started.elapsed()),
            grouped(counts.waiting),
            grouped(counts.admitted),
            grouped(counts.held),
            grouped(counts.paid),
            grouped(counts.confirmed),
            grouped(self.inbox.len() as u64),
            format!("{sold} of {}", grouped(self.seats))
        )
    }
}

/// The events of each second so far.
#[derive(Default)]
struct History {
    let_in: Series,
    requests: Series,
}

#[derive(Default)]
struct Series {
    total: u64,
    each: Vec<u64>,
}

impl History {
    /// Records the seconds that have begun since the last call.
    fn record(&mut self, elapsed: Duration, funnel: &Funnel) {
        let seconds = usize::try_from(elapsed.as_secs()).unwrap_or(usize::MAX);
        self.let_in.record(seconds, funnel.counts().admitted);
        self.requests.record(seconds, funnel.requests().sent);
    }
}

impl Series {
    /// Brings the series up to `seconds`. On a busy machine a call is late: what the total grew by
    /// is spread evenly over the seconds it missed.
    fn record(&mut self, seconds: usize, total: u64) {
        for missing in (1..=seconds.saturating_sub(self.each.len())).rev() {
            let part = (total - self.total) / missing as u64;
            self.each.push(part);
            self.total += part;
        }
    }
}

/// The canvas while it is open.
type SharedCanvas = Arc<Mutex<Option<Canvas>>>;

/// The rows of a terminal that are drawn over, in one write so that they don't flicker. Between two
/// frames the hidden cursor stands in the first row, which is empty: a log line that is printed
/// there stays, and the next frame is drawn below it.
struct Canvas {
    term: Term,
    rows: usize,
}

impl Canvas {
    fn open(term: Term) -> Self {
        let _gone = term.hide_cursor();
        Self { term, rows: 0 }
    }

    fn draw(&mut self, lines: &[String]) {
        const ERASE_REST: &str = "\x1b[K";
        let columns = usize::from(self.term.size().1);
        let mut frame = format!("\r{ERASE_REST}");
        for line in lines {
            let line = console::truncate_str(line, columns, "");
            let _infallible = write!(frame, "\n{line}{ERASE_REST}");
        }
        self.rows = lines.len();
        let _infallible = write!(frame, "\r\x1b[{}A", self.rows);
        // A terminal that is gone shows nothing.
        let _gone = self.term.write_str(&frame);
    }
}

impl Drop for Canvas {
    /// Leaves the cursor below the last frame.
    fn drop(&mut self) {
        if self.rows > 0 {
            let _gone = self.term.write_str(&format!("\x1b[{}B\n", self.rows));
        }
        let _gone = self.term.show_cursor();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_is_recorded_once_however_late_a_frame_is() {
        let mut series = Series::default();
        series.record(0, 3);
        assert!(series.each.is_empty(), "the first second has not passed");
        series.record(1, 4);
        series.record(1, 9);
        assert_eq!(series.each, [4]);
        // Two seconds late: eleven in three seconds.
        series.record(4, 15);
        assert_eq!(series.each, [4, 3, 4, 4]);
        assert_eq!(series.each.iter().sum::<u64>(), 15);
    }
}
