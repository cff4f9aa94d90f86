//! The picture of the sale on a terminal: a screenful of bars in 80 columns.

use std::time::Duration;

use console::{StyledObject, style};
use surge::buyer::{FunnelCounts, Latencies, Quantiles};

use super::house::Shown;

/// Rows of a picture.
pub(super) const ROWS: usize = 16;
/// Columns of a bar.
const BAR: usize = 34;
/// The time of a full bar, doubled until the longest wait fits.
const FULL_WAIT: Duration = Duration::from_secs(60);

/// The figures to draw.
pub(super) struct Figures<'a> {
    pub(super) since_opening: Duration,
    pub(super) buyers: u64,
    pub(super) seats: u64,
    pub(super) rate_per_minute: u64,
    pub(super) house: &'a Shown,
    pub(super) counts: FunnelCounts,
    pub(super) latencies: Latencies,
    pub(super) mails: u64,
    /// People let in during each of the last seconds.
    pub(super) let_in: &'a [u64],
    /// Requests of the buyers during each of the last seconds.
    pub(super) requests: &'a [u64],
}

/// Draws the picture, a line each.
pub(super) fn draw(figures: &Figures<'_>) -> [String; ROWS] {
    let Figures {
        house,
        counts,
        latencies,
        ..
    } = figures;
    let purchases = |label, count| row(label, bar(count, figures.seats), &grouped(count));
    let state = match house.state.replace('_', " ") {
        unknown if unknown.is_empty() => "opening".to_owned(),
        state => state,
    };
    let header = format!(
        "{}  {}  {} buyers, {} seats, up to {} let in a minute",
        clock(figures.since_opening),
        style(state).bold().for_stderr(),
        grouped(figures.buyers),
        grouped(figures.seats),
        grouped(figures.rate_per_minute),
    );
    let waiting = format!("of {} joined", grouped(counts.joined));
    let waiting = format!("{:>6} {waiting}", grouped(counts.waiting));
    let longest = [latencies.wait_for_pass, latencies.hold, latencies.confirm]
        .map(|wait| wait.p90_ms)
        .into_iter()
        .max()
        .unwrap_or_default();
    // The rate limits every minute, whatever a single second has.
    let last_minute = last(figures.let_in, 60).iter().sum();
    let let_in = format!("{:>6} in a minute", grouped(last_minute));
    let recent = last(figures.requests, 5);
    let mean = recent.iter().sum::<u64>() / (recent.len() as u64).max(1);
    let requests = format!("{:>6} a second", grouped(mean));
    let wait = |label, quantiles| wait(label, quantiles, full_wait(longest));
    [
        header,
        row("seats", stacked(house), &seats(house)),
        row(
            "in the queue",
            bar(counts.waiting, figures.buyers),
            &waiting,
        ),
        purchases("let in", counts.admitted),
        purchases("got seats", counts.held),
        purchases("paid", counts.paid),
        purchases("got tickets", counts.confirmed),
        purchases("mails", figures.mails),
        String::new(),
        chart("let in", figures.let_in, &let_in),
        chart("requests", figures.requests, &requests),
        String::new(),
        format!(
            "  {:<14}{:BAR$}  {:>8}  {:>8}",
            "waits", "", "half", "9 of 10"
        ),
        wait("for the turn", latencies.wait_for_pass),
        wait("for seats", latencies.hold),
        wait("for tickets", latencies.confirm),
    ]
}

/// Minutes and seconds since the opening.
pub(super) fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// Writes a number with a comma between thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a duration in seconds, with two decimals below ten.
pub(super) fn seconds(millis: u64) -> String {
    let (whole, hundredths) = (millis / 1_000, millis % 1_000 / 10);
    if whole < 10 {
        format!("{whole}.{hundredths:02} s")
    } else {
        format!("{whole}.{} s", hundredths / 10)
    }
}

fn row(label: &str, bar: impl std::fmt::Display, text: &str) -> String {
    format!("  {label:<14}{bar}  {text:>6}")
}

fn seats(house: &Shown) -> String {
    let text = |count, word| format!("{} {word}", grouped(count));
    format!(
        "{}, {}",
        sold(text(house.sold, "sold")),
        held(text(house.held, "held"))
    )
}

/// A bar of the seats by state.
fn stacked(house: &Shown) -> String {
    let total = house.sold + house.held + house.free;
    let up_to = |seats| cells(seats, total);
    let sold_cells = up_to(house.sold);
    let held_cells = up_to(house.sold + house.held) - sold_cells;
    format!(
        "{}{}{}",
        sold("█".repeat(sold_cells)),
        held("▒".repeat(held_cells)),
        style("░".repeat(BAR - sold_cells - held_cells))
            .dim()
            .for_stderr()
    )
}

fn sold(text: String) -> StyledObject<String> {
    style(text).green().for_stderr()
}

fn held(text: String) -> StyledObject<String> {
    style(text).yellow().for_stderr()
}

/// A bar in steps of an eighth of a column.
fn bar(part: u64, whole: u64) -> StyledObject<String> {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let steps = scaled(part, whole, BAR * 8);
    let text = format!("{}{}", "█".repeat(steps / 8), EIGHTHS[steps % 8]);
    style(format!("{text:BAR$}")).cyan().for_stderr()
}

/// A chart of `history`, whose last second is on the right. A second with anything is higher than
/// one with nothing.
fn chart(label: &str, history: &[u64], text: &str) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = history.iter().copied().max().unwrap_or_default();
    let level =
        |count: &u64| LEVELS[scaled(*count, most, LEVELS.len() - 1).max(usize::from(*count > 0))];
    let chart: String = last(history, BAR).iter().map(level).collect();
    row(
        label,
        style(format!("{chart:>BAR$}")).cyan().for_stderr(),
        text,
    )
}

/// The last `seconds` of `history`.
fn last(history: &[u64], seconds: usize) -> &[u64] {
    &history[history.len().saturating_sub(seconds)..]
}

/// A bar up to the median, and a lighter one up to the 90th percentile.
fn wait(label: &str, quantiles: Quantiles, full: u64) -> String {
    let half = cells(quantiles.p50_ms, full);
    let most = cells(quantiles.p90_ms, full).max(half);
    let bar = format!("{}{}", "█".repeat(half), "▒".repeat(most - half));
    let bar = style(format!("{bar:BAR$}")).cyan().for_stderr();
    let text = if quantiles.count == 0 {
        format!("{:>8}  {:>8}", "–", "–")
    } else {
        format!(
            "{:>8}  {:>8}",
            seconds(quantiles.p50_ms),
            seconds(quantiles.p90_ms)
        )
    };
    row(label, bar, &text)
}

/// The milliseconds of a full bar.
fn full_wait(longest_ms: u64) -> u64 {
    let mut full = u64::try_from(FULL_WAIT.as_millis()).expect("a minute fits");
    while full < longest_ms {
        full *= 2;
    }
    full
}

/// Columns of `part`.
fn cells(part: u64, whole: u64) -> usize {
    scaled(part, whole, BAR)
}

/// `part` of `whole` on a scale of `steps`, at most all, and nothing of nothing.
fn scaled(part: u64, whole: u64, steps: usize) -> usize {
    let steps_of = u128::from(part) * steps as u128 / u128::from(whole.max(1));
    usize::try_from(steps_of).map_or(steps, |scaled| scaled.min(steps))
}

#[cfg(test)]
mod tests {
    use console::measure_text_width;
    use surge::buyer::{Funnel, Stage};

    use super::*;

    /// A sale of the largest size that the demo takes, near its end.
    fn lines_with(let_in: &[u64]) -> [String; ROWS] {
        let funnel = Funnel::default();
        for stage in [
            Stage::Joined,
            Stage::Admitted,
            Stage::Held,
            Stage::Confirmed,
        ] {
            funnel.reached(stage, Duration::from_millis(1_234));
        }
        let house = Shown {
            state: "sold_out".to_owned(),
            free: 10_000,
            held: 10_000,
            sold: 30_000,
        };
        draw(&Figures {
            since_opening: Duration::from_secs(83),
            buyers: 100_000,
            seats: 50_000,
            rate_per_minute: 600_000,
            house: &house,
            counts: FunnelCounts {
                joined: 100_000,
                waiting: 100_000,
                admitted: 70_000,
                ..funnel.counts()
            },
            latencies: funnel.latencies(),
            mails: 123_456,
            let_in,
            requests: &[0, 1, 100_000],
        })
    }

    #[test]
    fn the_picture_of_the_largest_sale_fits_eighty_columns() {
        for line in lines_with(&[10_000; 100]) {
            let columns = measure_text_width(&line);
            assert!(columns < 80, "{columns}: {line}");
        }
    }

    #[test]
    fn bars_are_as_long_as_their_share_and_never_longer_than_full() {
        let columns = |part, whole| {
            let bar = console::strip_ansi_codes(&bar(part, whole).to_string()).into_owned();
            assert_eq!(measure_text_width(&bar), BAR, "{bar:?}");
            bar.trim_end().chars().count()
        };
        assert_eq!(
            [columns(0, 0), columns(0, 9), columns(1, 2)],
            [0, 0, BAR / 2]
        );
        assert_eq!([columns(9, 9), columns(20, 9)], [BAR, BAR]);
        assert_eq!(columns(1, 34 * 8), 1, "an eighth of a column");
    }

    #[test]
    fn a_chart_shows_the_last_seconds_and_tells_little_from_nothing() {
        let mut history = [0; 60];
        (history[58], history[59]) = (1, 1_000);
        let line = chart("let in", &history, "end");
        let line = console::strip_ansi_codes(&line).into_owned();
        assert!(line.ends_with("▁▁▂█     end"), "{line}");
        assert_eq!(line.matches(['▁', '▂', '█']).count(), BAR);
    }

    #[test]
    fn people_let_in_are_counted_over_a_minute_as_their_rate_is() {
        let counted = |seconds: usize| {
            let lines = lines_with(&vec![20; seconds]);
            let line = console::strip_ansi_codes(&lines[9]).into_owned();
            line.rsplit_once("  ").unwrap().1.trim_start().to_owned()
        };
        assert_eq!(counted(1), "20 in a minute");
        assert_eq!(counted(300), "1,200 in a minute");
    }

    #[test]
    fn short_waits_have_two_decimals() {
        let texts = [0, 5, 310, 9_999, 10_000, 61_250].map(seconds);
        assert_eq!(
            texts,
            ["0.00 s", "0.00 s", "0.31 s", "9.99 s", "10.0 s", "61.2 s"]
        );
    }

    #[test]
    fn numbers_have_a_comma_between_thousands() {
        let texts = [0, 999, 1_000, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
    }
}
