//! Decides a batch of requests in memory and in order, from a snapshot of the stock. The guards of
//! the write detect what has changed since.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use domain::booking::{BookedSeat, Part, RejectReason, Wish};
use domain::limits::MAX_TICKETS_PER_BOOKING;
use domain::message::PlaceHold;
use domain::{AccountId, EventId, Money, SeatId, SectionId};

use crate::choose::{Choice, FreeSeat, Quality, choose};

/// Oldest request that gets seats. After a longer outage its buyer has left, and others come first.
const MAX_AGE: TimeDelta = TimeDelta::minutes(10);

/// Time for which unpaid holds count against an account, from when they end.
pub(crate) const UNPAID_COUNTS_FOR: TimeDelta = TimeDelta::minutes(30);
/// Unpaid holds of an account in an event from which on it gets no new deadline.
const MAX_UNPAID: u32 = 2;
/// Shortest rest of a deadline that seats are held for; a quarter of a hold if that is less.
const MIN_REST: TimeDelta = TimeDelta::seconds(60);

/// Snapshot of what one batch may draw on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Market {
    /// The known events.
    pub(crate) terms: HashMap<EventId, Terms>,
    /// The sections on sale of each event, in the order they are tried.
    pub(crate) sections: HashMap<EventId, Vec<Section>>,
    /// Tickets that count against an account's limit.
    pub(crate) owned: HashMap<(EventId, AccountId), u32>,
    /// Unpaid holds of each account that has some.
    pub(crate) unpaid: HashMap<(EventId, AccountId), Unpaid>,
    /// The seats that are requested by id and exist.
    pub(crate) named: HashMap<SeatId, NamedSeat>,
}

/// Holds of an account in an event that ended without payment within [`UNPAID_COUNTS_FOR`], since
/// it last paid.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Unpaid {
    pub(crate) holds: u32,
    /// The earliest deadline that is still ahead: that hold was given up before its end.
    pub(crate) deadline: Option<DateTime<Utc>>,
}

impl Unpaid {
    /// Adds a hold that would have ended, or has ended, at `hold_until`.
    pub(crate) fn add(&mut self, hold_until: DateTime<Utc>, now: DateTime<Utc>) {
        self.holds += 1;
        if hold_until > now {
            let earliest = self
                .deadline
                .map_or(hold_until, |known| known.min(hold_until));
            self.deadline = Some(earliest);
        }
    }
}

/// Terms of an event's sale.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// `true` if bookings are accepted now.
    pub(crate) is_bookable: bool,
    /// Most live tickets of an account.
    pub(crate) limit: u32,
    /// Lifetime of a hold.
    pub(crate) hold: TimeDelta,
}

/// A section, as far as it was read.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    pub(crate) id: SectionId,
    pub(crate) name: String,
    pub(crate) tier: String,
    /// `true` if seats have rows and numbers.
    pub(crate) numbered: bool,
    /// Price of a seat.
    pub(crate) price: Money,
    /// Number of free seats.
    pub(crate) available: u32,
    /// The foremost free seats, in order of rank.
    pub(crate) free: Vec<FreeSeat>,
    /// `true` if `free` has all of them.
    pub(crate) is_complete: bool,
}

/// A seat that is requested by id.
#[derive(Debug, Clone)]
pub(crate) struct NamedSeat {
    pub(crate) section_id: SectionId,
    pub(crate) seat: FreeSeat,
    /// `true` if it was free when it was read.
    pub(crate) is_free: bool,
}

/// Decision about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Holds these seats.
    Hold {
        seats: Vec<BookedSeat>,
        total: Money,
        hold_until: DateTime<Utc>,
    },
    Reject(RejectReason),
}

/// Reads more free seats of the first of these sections, and perhaps of the next ones, before a
/// decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadMore(pub(crate) Vec<SectionId>);

/// Reason for which a request gets no seats, or none yet.
enum NoSeats {
    Reject(RejectReason),
    ReadMore(Vec<SectionId>),
}

/// A section's supply for a request.
enum Take {
    Taken(Vec<BookedSeat>),
    /// Too few seats are free, or they are not adjacent.
    Nothing,
    /// More of its free seats must be read first.
    ReadMore,
}

impl From<RejectReason> for NoSeats {
    fn from(reason: RejectReason) -> Self {
        Self::Reject(reason)
    }
}

impl Market {
    /// Decides one request, and takes its seats off the market.
    ///
    /// # Errors
    /// [`ReadMore`] leaves the market as it was.
    pub(crate) fn decide(
        &mut self,
        request: &PlaceHold,
        now: DateTime<Utc>,
    ) -> Result<Decision, ReadMore> {
        match self.try_hold(request, now) {
            Ok(decision) => Ok(decision),
            Err(NoSeats::Reject(reason)) => Ok(Decision::Reject(reason)),
            Err(NoSeats::ReadMore(sections)) => Err(ReadMore(sections)),
        }
    }

    fn try_hold(&mut self, request: &PlaceHold, now: DateTime<Utc>) -> Result<Decision, NoSeats> {
        if now - request.asked_at.unwrap_or(request.accepted_at) > MAX_AGE {
            return Err(RejectReason::TimedOut.into());
        }
        let event_id = request.event_id;
        let terms = self
            .terms
            .get(&event_id)
            .ok_or(RejectReason::UnknownEvent)?;
        if !terms.is_bookable {
            return Err(RejectReason::SaleClosed.into());
        }
        let hold_until = self.hold_until(request, terms.hold, now)?;
        let tickets = request.wish.tickets();
        let owner = (event_id, request.account_id);
        let owned = self
            .owned
            .get(&owner)
            .copied()
            .unwrap_or(0)
            .saturating_add(tickets);
        if tickets > MAX_TICKETS_PER_BOOKING || owned > terms.limit {
            return Err(RejectReason::LimitReached.into());
        }
        let (seats, total) = match &request.wish {
            Wish::Best(part) => self.take_best(event_id, part)?,
            Wish::Mixed(parts) => self.take_all(event_id, parts)?,
            Wish::Seats(ids) => self.take_named(event_id, ids)?,
        };
        self.owned.insert(owner, owned);
        for seat in &seats {
            if let Some(named) = self.named.get_mut(&seat.id) {
                named.is_free = false;
            }
        }
        Ok(Decision::Hold {
            seats,
            total,
            hold_until,
        })
    }

    /// Returns the end of a new hold. Seats that are given up and taken again are held no longer
    /// than at first, so that free accounts can't hold a sale for ever. Staff hold for others
    /// without this limit.
    fn hold_until(
        &self,
        request: &PlaceHold,
        hold: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<DateTime<Utc>, RejectReason> {
        let whole = now + hold;
        if request.asked_by.is_some_and(|by| by != request.account_id) {
            return Ok(whole);
        }
        let Some(unpaid) = self.unpaid.get(&(request.event_id, request.account_id)) else {
            return Ok(whole);
        };
        match unpaid.deadline {
            Some(deadline) if deadline - now >= MIN_REST.min(hold / 4) => Ok(whole.min(deadline)),
            None if unpaid.holds < MAX_UNPAID => Ok(whole),
            Some(_) | None => Err(RejectReason::HoldUsedUp),
        }
    }

    /// Claims the best seats of the first section with enough adjacent ones; if there is none, of
    /// the first section with enough.
    fn take_best(
        &mut self,
        event_id: EventId,
        part: &Part,
    ) -> Result<(Vec<BookedSeat>, Money), NoSeats> {
        let sections = self
            .sections
            .get_mut(&event_id)
            .map_or(&mut [][..], Vec::as_mut_slice);
        let tickets = part.tickets;
        let mut wanted: Vec<_> = sections
            .iter_mut()
            .filter(|section| section.matches(part))
            .collect();
        if wanted.is_empty() && (part.section_id.is_some() || part.tier.is_some()) {
            return Err(RejectReason::UnknownEvent.into());
        }
        for is_apart_allowed in [false, true] {
            for nth in 0..wanted.len() {
                let section = &mut wanted[nth];
                match section.take_best(tickets, is_apart_allowed) {
                    Take::Taken(seats) => {
                        let total = section.price.times(tickets);
                        return Ok((seats, total.expect("price and count are bounded")));
                    }
                    Take::Nothing => {}
                    Take::ReadMore => {
                        let unread = wanted[nth..]
                            .iter()
                            .filter(|section| !section.is_complete && section.available >= tickets);
                        let unread = unread.map(|section| section.id).collect();
                        return Err(NoSeats::ReadMore(unread));
                    }
                }
            }
        }
        let left: u32 = wanted.iter().map(|section| section.available).sum();
        Err(if left < tickets {
            RejectReason::SoldOut
        } else {
            RejectReason::NotAdjacent
        }
        .into())
    }

    /// Claims the best seats for every part, or none.
    fn take_all(
        &mut self,
        event_id: EventId,
        parts: &[Part],
    ) -> Result<(Vec<BookedSeat>, Money), NoSeats> {
        let before = self.sections.get(&event_id).cloned();
        let mut taken = Vec::new();
        let mut prices = Vec::new();
        for part in parts {
            let took = self.take_best(event_id, part).and_then(|(seats, price)| {
                taken.extend(seats);
                prices.push(price);
                sum(&prices).ok_or_else(|| RejectReason::MixedCurrencies.into())
            });
            if let Err(refusal) = took {
                self.sections
                    .extend(before.map(|sections| (event_id, sections)));
                return Err(refusal);
            }
        }
        let total = sum(&prices).ok_or(RejectReason::UnknownEvent)?;
        Ok((taken, total))
    }

    /// Claims exactly these seats, or none.
    fn take_named(
        &mut self,
        event_id: EventId,
        ids: &[SeatId],
    ) -> Result<(Vec<BookedSeat>, Money), NoSeats> {
        let sections = self
            .sections
            .get_mut(&event_id)
            .map_or(&mut [][..], Vec::as_mut_slice);
        let mut places = Vec::with_capacity(ids.len());
        for id in ids {
            let named = self.named.get(id).ok_or(RejectReason::UnknownEvent)?;
            let section = sections
                .iter()
                .position(|section| section.id == named.section_id);
            places.push((section.ok_or(RejectReason::UnknownEvent)?, named));
        }
        places.sort_by_key(|(section, named)| (*section, named.seat.rank));
        let is_repeated = places
            .windows(2)
            .any(|pair| pair[0].1.seat.id == pair[1].1.seat.id);
        if is_repeated || places.iter().any(|(_, named)| !named.is_free) {
            return Err(RejectReason::SeatTaken.into());
        }
        let prices: Vec<_> = places
            .iter()
            .map(|(section, _)| sections[*section].price)
            .collect();
        let total = sum(&prices).ok_or(RejectReason::MixedCurrencies)?;
        let mut seats = Vec::with_capacity(places.len());
        for (section, named) in places {
            seats.push(sections[section].booked(&named.seat));
            sections[section].remove(named.seat.id);
        }
        Ok((seats, total))
    }
}

impl Section {
    /// Returns `true` if its seats match the part.
    fn matches(&self, part: &Part) -> bool {
        part.section_id.is_none_or(|id| self.id == id)
            && part.tier.as_ref().is_none_or(|tier| self.tier == *tier)
    }

    fn take_best(&mut self, tickets: u32, is_apart_allowed: bool) -> Take {
        if self.available < tickets {
            return Take::Nothing;
        }
        let wanted = usize::try_from(tickets).expect("bounded by the tickets of a booking");
        let choice = choose(&self.free, wanted);
        let is_good = |choice: &Choice| choice.quality == Quality::Good;
        if !self.is_complete && !choice.as_ref().is_some_and(is_good) {
            return Take::ReadMore;
        }
        let Some(choice) = choice else {
            // The counter is older than the seats.
            self.available = u32::try_from(self.free.len()).unwrap_or(u32::MAX);
            return Take::Nothing;
        };
        if choice.quality == Quality::Apart && !is_apart_allowed {
            return Take::Nothing;
        }
        self.available -= tickets;
        let taken: Vec<_> = self.free.drain(choice.range).collect();
        Take::Taken(taken.iter().map(|seat| self.booked(seat)).collect())
    }

    fn remove(&mut self, id: SeatId) {
        self.available = self.available.saturating_sub(1);
        self.free.retain(|seat| seat.id != id);
    }

    fn booked(&self, seat: &FreeSeat) -> BookedSeat {
        let (row, number) = (seat.row.clone(), seat.number);
        BookedSeat {
            id: seat.id,
            section: self.name.clone(),
            row,
            number,
        }
    }
}

/// Adds up prices; `None` when their currencies differ, or there are none.
fn sum(prices: &[Money]) -> Option<Money> {
    let (first, rest) = prices.split_first()?;
    rest.iter().try_fold(*first, |total, price| {
        let amount_minor = total.amount_minor.checked_add(price.amount_minor)?;
        (total.currency == price.currency).then_some(Money {
            amount_minor,
            ..total
        })
    })
}

/// Number of free seats of each section to read: what the requests would claim if every named seat
/// were free, and more in numbered sections, for adjacent seats to choose from.
pub(crate) fn forecast(market: &Market, requests: &[&PlaceHold]) -> HashMap<SectionId, u32> {
    let mut demand: HashMap<SectionId, u32> = HashMap::new();
    for request in requests {
        let sections = market
            .sections
            .get(&request.event_id)
            .map_or(&[][..], Vec::as_slice);
        match &request.wish {
            Wish::Seats(ids) => {
                let named = ids.iter().filter_map(|id| market.named.get(id));
                named.for_each(|named| *demand.entry(named.section_id).or_default() += 1);
            }
            Wish::Best(part) => expect_best(sections, part, &mut demand),
            Wish::Mixed(parts) => {
                for part in parts {
                    expect_best(sections, part, &mut demand);
                }
            }
        }
    }
    for section in market
        .sections
        .values()
        .flatten()
        .filter(|section| section.numbered)
    {
        demand
            .entry(section.id)
            .and_modify(|seats| *seats = seats.saturating_mul(2) + MARGIN);
    }
    demand
}

/// Adds `part` to the demand of the first section that still has enough.
fn expect_best(sections: &[Section], part: &Part, demand: &mut HashMap<SectionId, u32>) {
    let fits = |section: &&Section| {
        let spoken_for = demand.get(&section.id).copied().unwrap_or(0);
        section.matches(part) && section.available >= spoken_for.saturating_add(part.tickets)
    };
    if let Some(section) = sections.iter().find(fits) {
        *demand.entry(section.id).or_default() += part.tickets;
    }
}

/// Seats read beyond twice the demand.
const MARGIN: u32 = 64;

#[cfg(test)]
mod tests {
    use domain::{BookingId, Currency};
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    const EVENT: EventId = EventId(1);

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn section(id: i64, price: Money, seats: i64) -> Section {
        let free: Vec<_> = (0..seats)
            .map(|index| FreeSeat {
                id: SeatId(id * 100 + index),
                rank: i32::try_from(index).unwrap(),
                row: Some("A".to_owned()),
                number: Some(i32::try_from(index).unwrap() + 1),
            })
            .collect();
        Section {
            id: SectionId(id),
            name: format!("Section {id}"),
            tier: format!("Tier {id}"),
            numbered: true,
            price,
            available: u32::try_from(seats).unwrap(),
            free,
            is_complete: true,
        }
    }

    fn euros(amount_minor: i64) -> Money {
        Money::new(amount_minor, Currency::EUR)
    }

    fn market(sections: Vec<Section>, limit: u32) -> Market {
        let named = sections.iter().flat_map(|section| {
            section.free.iter().map(|seat| {
                let named = NamedSeat {
                    section_id: section.id,
                    seat: seat.clone(),
                    is_free: true,
                };
                (seat.id, named)
            })
        });
        let named = named.collect();
        let terms = Terms {
            is_bookable: true,
            limit,
            hold: TimeDelta::seconds(60),
        };
        Market {
            terms: [(EVENT, terms)].into(),
            sections: [(EVENT, sections)].into(),
            owned: HashMap::new(),
            unpaid: HashMap::new(),
            named,
        }
    }

    fn request(account: i64, wish: Wish) -> PlaceHold {
        PlaceHold {
            booking_id: BookingId::new(now()),
            event_id: EVENT,
            account_id: AccountId(account),
            wish,
            accepted_at: now(),
            reply_to: String::new(),
            asked_at: None,
            asked_by: None,
        }
    }

    fn best(tickets: u32) -> Wish {
        Wish::best(tickets)
    }

    fn part(tickets: u32, section: i64) -> Part {
        Part {
            tickets,
            section_id: Some(SectionId(section)),
            tier: None,
        }
    }

    fn seats_of(decision: &Decision) -> Vec<i64> {
        match decision {
            Decision::Hold { seats, .. } => seats.iter().map(|seat| seat.id.0).collect(),
            Decision::Reject(_) => Vec::new(),
        }
    }

    #[test]
    fn the_first_section_with_enough_seats_is_taken() {
        let mut market = market(
            vec![section(1, euros(900), 2), section(2, euros(500), 4)],
            10,
        );
        let decision = market.decide(&request(1, best(3)), now()).unwrap();
        assert_eq!(seats_of(&decision), [200, 201, 202]);
        let Decision::Hold {
            total, hold_until, ..
        } = decision
        else {
            unreachable!()
        };
        assert_eq!(total, euros(1500));
        assert_eq!(hold_until, now() + TimeDelta::seconds(60));
    }

    #[test]
    fn a_request_names_its_reason_when_refused() {
        use RejectReason::{
            LimitReached, MixedCurrencies, NotAdjacent, SeatTaken, SoldOut, UnknownEvent,
        };
        let dollars = Money::new(5, Currency::try_from("usd").unwrap());
        let mut market = market(vec![section(1, euros(5), 2), section(2, dollars, 2)], 6);
        let elsewhere = Wish::best_in(SectionId(9), 1);
        let only = Wish::best_in(SectionId(1), 3);
        let tier = |name: &str| {
            Wish::Best(Part {
                tickets: 1,
                section_id: None,
                tier: Some(name.to_owned()),
            })
        };
        let mixed = |parts: &[(u32, i64)]| {
            Wish::Mixed(
                parts
                    .iter()
                    .map(|(tickets, section)| part(*tickets, *section))
                    .collect(),
            )
        };
        let seats = |ids: &[i64]| Wish::Seats(ids.iter().copied().map(SeatId).collect());
        for (wish, reason) in [
            (best(7), LimitReached),
            (best(5), SoldOut),
            (best(4), NotAdjacent),
            (elsewhere, UnknownEvent),
            (only, SoldOut),
            (seats(&[100, 100]), SeatTaken),
            (seats(&[100, 999]), UnknownEvent),
            (seats(&[100, 200]), MixedCurrencies),
            (tier("Tier 9"), UnknownEvent),
            (mixed(&[(1, 1), (1, 2)]), MixedCurrencies),
            (mixed(&[(2, 1), (1, 1)]), SoldOut),
        ] {
            let decision = market.decide(&request(1, wish.clone()), now());
            assert_eq!(decision, Ok(Decision::Reject(reason)), "{wish:?}");
        }
        assert_eq!(
            seats_of(&market.decide(&request(1, seats(&[101])), now()).unwrap()),
            [101]
        );
        let again = market.decide(&request(2, seats(&[100, 101])), now());
        assert_eq!(again, Ok(Decision::Reject(SeatTaken)));
    }

    #[test]
    fn a_request_whose_buyer_has_left_gets_no_seats_and_its_repeat_does() {
        let mut market = market(vec![section(1, euros(5), 4)], 10);
        let old = PlaceHold {
            accepted_at: now() - MAX_AGE - TimeDelta::seconds(1),
            ..request(1, best(1))
        };
        let timed_out = Ok(Decision::Reject(RejectReason::TimedOut));
        assert_eq!(market.decide(&old, now()), timed_out);
        let repeated = PlaceHold {
            asked_at: Some(now()),
            ..old
        };
        assert_eq!(seats_of(&market.decide(&repeated, now()).unwrap()), [100]);
        let young = PlaceHold {
            accepted_at: now() - MAX_AGE,
            ..request(2, best(1))
        };
        assert_eq!(seats_of(&market.decide(&young, now()).unwrap()), [101]);
    }

    #[test]
    fn a_new_hold_ends_with_the_one_that_was_given_up() {
        let after = |holds, deadline: Option<i64>| Unpaid {
            holds,
            deadline: deadline.map(|seconds| now() + TimeDelta::seconds(seconds)),
        };
        for (unpaid, expected) in [
            (after(1, None), Some(60)),
            (after(2, None), None),
            (after(1, Some(59)), Some(59)),
            // As often as its buyer likes, for the deadline stays.
            (after(7, Some(15)), Some(15)),
            (after(1, Some(14)), None),
            (after(1, Some(90)), Some(60)),
        ] {
            let mut market = market(vec![section(1, euros(5), 4)], 10);
            market.unpaid.insert((EVENT, AccountId(1)), unpaid);
            let decision = market.decide(&request(1, best(1)), now()).unwrap();
            let end = match decision {
                Decision::Hold { hold_until, .. } => Some((hold_until - now()).num_seconds()),
                Decision::Reject(reason) => {
                    assert_eq!(reason, RejectReason::HoldUsedUp);
                    None
                }
            };
            assert_eq!(end, expected, "{unpaid:?}");
            let by_staff = PlaceHold {
                asked_by: Some(AccountId(9)),
                ..request(1, best(1))
            };
            let decision = market.decide(&by_staff, now()).unwrap();
            assert_eq!(seats_of(&decision).len(), 1, "staff hold for anybody");
        }
    }

    #[test]
    fn no_request_holds_more_than_a_booking_may() {
        let mut market = market(vec![section(1, euros(5), 40)], 100);
        let most = MAX_TICKETS_PER_BOOKING;
        let seats = |count: u32| Wish::Seats((100..100 + i64::from(count)).map(SeatId).collect());
        let parts = |count: u32| Wish::Mixed(vec![part(most, 1), part(count - most, 1)]);
        for wish in [best(most + 1), seats(most + 1), parts(most + 1)] {
            let decision = market.decide(&request(1, wish.clone()), now());
            let expected = Ok(Decision::Reject(RejectReason::LimitReached));
            assert_eq!(decision, expected, "{wish:?}");
        }
        let decision = market.decide(&request(1, best(most)), now()).unwrap();
        assert_eq!(seats_of(&decision).len(), usize::try_from(most).unwrap());
    }

    #[test]
    fn neighbours_elsewhere_are_preferred_to_seats_apart() {
        let mut scattered = section(1, euros(900), 3);
        scattered.free.remove(1);
        scattered.available = 2;
        let mut market = market(vec![scattered, section(2, euros(500), 4)], 10);
        let decision = market.decide(&request(1, best(2)), now()).unwrap();
        assert_eq!(seats_of(&decision), [200, 201]);
        let decision = market.decide(&request(2, best(2)), now()).unwrap();
        assert_eq!(seats_of(&decision), [202, 203]);
        let decision = market.decide(&request(3, best(2)), now()).unwrap();
        assert_eq!(seats_of(&decision), [100, 102]);
    }

    #[test]
    fn one_request_may_mix_sections_and_tiers() {
        let mut market = market(
            vec![section(1, euros(900), 4), section(2, euros(500), 4)],
            10,
        );
        let cheap = Part {
            tickets: 1,
            section_id: None,
            tier: Some("Tier 2".to_owned()),
        };
        let wish = Wish::Mixed(vec![part(2, 1), cheap]);
        let decision = market.decide(&request(1, wish), now()).unwrap();
        assert_eq!(seats_of(&decision), [100, 101, 200]);
        let Decision::Hold { total, .. } = decision else {
            unreachable!("it has seats")
        };
        assert_eq!(total, euros(2300));
    }

    #[test]
    fn more_is_read_when_the_window_holds_no_neighbours() {
        let mut narrow = section(1, euros(5), 4);
        narrow.free.remove(1);
        narrow.free.truncate(2);
        narrow.available = 3;
        narrow.is_complete = false;
        let mut market = market(vec![narrow], 6);
        assert_eq!(
            market.decide(&request(1, best(2)), now()),
            Err(ReadMore(vec![SectionId(1)]))
        );
    }

    #[test]
    fn all_sections_that_may_have_to_be_read_are_named_at_once() {
        let scattered = |id| {
            let mut section = section(id, euros(5), 6);
            section.free.truncate(1);
            section.is_complete = false;
            section
        };
        let mut complete = scattered(2);
        complete.is_complete = true;
        let mut market = market(vec![scattered(1), complete, scattered(3), scattered(4)], 6);
        let unread = [1, 3, 4].map(SectionId).to_vec();
        let decision = market.decide(&request(1, best(2)), now());
        assert_eq!(decision, Err(ReadMore(unread)));
    }

    fn any_wish() -> impl Strategy<Value = Wish> {
        let seat = (1_i64..4, 0_i64..12).prop_map(|(section, index)| SeatId(section * 100 + index));
        prop_oneof![
            (1_u32..5, proptest::option::of(1_i64..5)).prop_map(|(tickets, section)| {
                section.map_or(Wish::best(tickets), |id| {
                    Wish::best_in(SectionId(id), tickets)
                })
            }),
            proptest::collection::vec((1_u32..3, 1_i64..4), 1..3).prop_map(|parts| {
                Wish::Mixed(
                    parts
                        .into_iter()
                        .map(|(tickets, id)| part(tickets, id))
                        .collect(),
                )
            }),
            proptest::collection::vec(seat, 1..4).prop_map(Wish::Seats),
        ]
    }

    proptest! {
        #[test]
        fn a_batch_never_gives_a_seat_twice_nor_more_than_the_limit(
            wishes in proptest::collection::vec((1_i64..6, any_wish()), 0..40), mixed in any::<bool>(),
        ) {
            let other = if mixed { Money::new(7, Currency::try_from("usd").unwrap()) } else { euros(7) };
            let sections = vec![section(1, euros(9), 10), section(2, other, 10), section(3, euros(5), 10)];
            let mut market = market(sections, 6);
            let mut given = Vec::new();
            let mut owned: HashMap<i64, usize> = HashMap::new();
            for (account, wish) in wishes {
                let tickets = usize::try_from(wish.tickets()).unwrap();
                let decision = market.decide(&request(account, wish), now()).unwrap();
                let seats = seats_of(&decision);
                prop_assert!(seats.is_empty() || seats.len() == tickets);
                *owned.entry(account).or_default() += seats.len();
                given.extend(seats);
            }
            let count = given.len();
            let left: u32 = market.sections[&EVENT].iter().map(|section| section.available).sum();
            prop_assert_eq!(usize::try_from(left).unwrap(), 30 - count);
            given.sort_unstable();
            given.dedup();
            prop_assert_eq!(given.len(), count);
            prop_assert!(owned.values().all(|tickets| *tickets <= 6));
        }
    }
}
