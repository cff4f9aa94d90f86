//! The live view of the funnel: bars on a terminal, a line every two seconds elsewhere.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use stand_ins::Inbox;
use stand_ins::mail::Mail;
use surge::buyer::{Funnel, FunnelCounts};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::say;

const FRAME: Duration = Duration::from_millis(150);
const LINE_EVERY: Duration = Duration::from_secs(2);

/// The view and its funnel; dropping it stops the drawing.
pub(super) struct Progress {
    funnel: Arc<Funnel>,
    stop: CancellationToken,
    _drawing: AbortOnDropHandle<()>,
}

/// A row of the view: its label, and its value of the counts and the number of mails.
type Row = (&'static str, fn(&FunnelCounts, u64) -> u64);

const ROWS: [Row; 6] = [
    ("joined", |counts, _| counts.joined),
    ("admitted", |counts, _| counts.admitted),
    ("held", |counts, _| counts.held),
    ("paid", |counts, _| counts.paid),
    ("confirmed", |counts, _| counts.confirmed),
    ("mails", |_, mails| mails),
];

impl Progress {
    /// Starts drawing, for a crowd of `buyers`.
    pub(super) fn start(buyers: u64, inbox: Inbox<Mail>) -> Self {
        let funnel = Arc::new(Funnel::default());
        let stop = CancellationToken::new();
        let view = View {
            funnel: funnel.clone(),
            inbox,
            buyers,
            stop: stop.clone(),
        };
        let drawing = if std::io::stderr().is_terminal() {
            tokio::spawn(view.bars())
        } else {
            tokio::spawn(view.lines())
        };
        Self {
            funnel,
            stop,
            _drawing: AbortOnDropHandle::new(drawing),
        }
    }

    /// The counters that buyers increment.
    pub(super) fn funnel(&self) -> &Arc<Funnel> {
        &self.funnel
    }

    /// Draws once more and stops.
    pub(super) fn finish(&self) {
        self.stop.cancel();
    }
}

struct View {
    funnel: Arc<Funnel>,
    inbox: Inbox<Mail>,
    buyers: u64,
    stop: CancellationToken,
}

impl View {
    fn values(&self) -> [(&'static str, u64); ROWS.len()] {
        let counts = self.funnel.counts();
        let mails = self.inbox.len() as u64;
        ROWS.map(|(label, read)| (label, read(&counts, mails)))
    }

    async fn bars(self) {
        let all = MultiProgress::new();
        let style = ProgressStyle::with_template("  {prefix:>10} {bar:40.cyan/blue} {pos:>6}")
            .expect("the template is a constant");
        let bars = ROWS.map(|(label, _)| {
            let bar = ProgressBar::new(self.buyers)
                .with_style(style.clone())
                .with_prefix(label);
            all.add(bar)
        });
        while !self.stopped_within(FRAME).await {
            for (bar, (_, value)) in bars.iter().zip(self.values()) {
                bar.set_length(self.buyers.max(value));
                bar.set_position(value);
            }
        }
        for (bar, (_, value)) in bars.iter().zip(self.values()) {
            bar.set_position(value);
            bar.abandon();
        }
    }

    async fn lines(self) {
        let started = Instant::now();
        loop {
            let stopped = self.stopped_within(LINE_EVERY).await;
            let parts = self
                .values()
                .map(|(label, value)| format!("{label} {value}"));
            say(format_args!(
                "{:>4} s  {}",
                started.elapsed().as_secs(),
                parts.join("  ")
            ));
            if stopped {
                return;
            }
        }
    }

    async fn stopped_within(&self, pause: Duration) -> bool {
        tokio::time::timeout(pause, self.stop.cancelled())
            .await
            .is_ok()
    }
}
