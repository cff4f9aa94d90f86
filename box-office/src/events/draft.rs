//! Parsing and validation of an event as organisers submit it: a lenient body first, then a
//! [`Draft`] of validated values, so that each refusal names its field.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use domain::event::{Section, Tier};
use domain::limits::{MAX_SEATS_PER_EVENT, MAX_SECTIONS_PER_EVENT, MAX_TICKETS_PER_BOOKING};
use domain::money::NotChargeable;
use domain::{Currency, Money, SectionId};
use platform::problem::Problem;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::when;
use crate::fields::{self, invalid, present};
use crate::sales::settings::SalePatch;

const MAX_NAME_CHARS: usize = 200;
const MAX_TEXT_CHARS: usize = 10_000;
const MAX_WORD_CHARS: usize = 100;
const MAX_TICKETS_PER_ACCOUNT: u32 = 1_000;
const MAX_ROWS: u32 = 1_000;
const MAX_SEATS_PER_ROW: u32 = 1_000;
const REMINDER_SECONDS: std::ops::RangeInclusive<u32> = 60..=31_536_000;
const DEFAULT_TICKETS_PER_ACCOUNT: i64 = 6;
const DEFAULT_REMINDER_SECONDS: i64 = 86_400;
const DEFAULT_TIME_ZONE: Tz = Tz::UTC;
const DEFAULT_SECTION: &str = "General";
const DEFAULT_TIER: &str = "Standard";

/// Body of `POST` and `PUT`; an event as returned by `GET` is valid, too. Numbers are wide, so that
/// out-of-range values are refused by field name instead of as malformed JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventBody {
    /// Read-only; `PUT` refuses one that differs from the path.
    pub(super) id: Option<i64>,
    /// Read-only; ignored.
    #[serde(rename = "state")]
    _state: Option<IgnoredAny>,
    name: String,
    date: String,
    capacity: Option<i64>,
    price: Option<MoneyBody>,
    sections: Option<Vec<SectionBody>>,
    description: Option<String>,
    category: Option<String>,
    venue: Option<String>,
    city: Option<String>,
    country: Option<String>,
    time_zone: Option<String>,
    max_tickets_per_account: Option<i64>,
    #[serde(default, deserialize_with = "present")]
    reminder_before_seconds: Option<Option<i64>>,
    ticket_transfer: Option<bool>,
    /// Sale settings, for a new event only.
    pub(super) sale: Option<SalePatch>,
    /// Expected version, for optimistic concurrency control.
    pub(super) version: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SectionBody {
    /// Read-only; ignored, as sections are identified by name.
    #[serde(rename = "id")]
    _id: Option<IgnoredAny>,
    name: String,
    #[serde(default)]
    numbered: bool,
    capacity: Option<i64>,
    rows: Option<i64>,
    seats_per_row: Option<i64>,
    tier: Option<TierBody>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TierBody {
    name: Option<String>,
    price: MoneyBody,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MoneyBody {
    amount_minor: i64,
    currency: String,
}

/// A validated event without an id.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) date: DateTime<Utc>,
    pub(super) capacity: u32,
    pub(super) description: String,
    pub(super) category: String,
    pub(super) venue: String,
    pub(super) city: String,
    pub(super) country: String,
    pub(super) time_zone: String,
    pub(super) max_tickets_per_account: u32,
    pub(super) reminder_before_seconds: Option<u32>,
    pub(super) ticket_transfer: bool,
    /// With id 0: ids are assigned on insert.
    pub(super) sections: Vec<Section>,
}

impl EventBody {
    /// Validates every field.
    ///
    /// # Errors
    /// `invalid`, naming the first invalid field.
    pub(super) fn draft(&self) -> Result<Draft, Problem> {
        let max_tickets_per_account = fields::number(
            "max_tickets_per_account",
            self.max_tickets_per_account
                .unwrap_or(DEFAULT_TICKETS_PER_ACCOUNT),
            1..=MAX_TICKETS_PER_ACCOUNT,
        )?;
        let sections = self.sections(max_tickets_per_account.min(MAX_TICKETS_PER_BOOKING))?;
        let zone = self.time_zone.as_deref().map(time_zone).transpose()?;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Ok(Draft {
            name: fields::name("name", &self.name, MAX_NAME_CHARS)?,
            date: when::start(&self.date, zone)?,
            capacity: self.total(&sections)?,
            description: fields::text("description", &text(&self.description), MAX_TEXT_CHARS)?,
            category: fields::line("category", &text(&self.category), MAX_WORD_CHARS)?,
            venue: fields::line("venue", &text(&self.venue), MAX_NAME_CHARS)?,
            city: fields::line("city", &text(&self.city), MAX_WORD_CHARS)?,
            country: fields::country("country", &text(&self.country))?,
            time_zone: zone.unwrap_or(DEFAULT_TIME_ZONE).name().to_owned(),
            max_tickets_per_account,
            reminder_before_seconds: self
                .reminder_before_seconds
                .unwrap_or(Some(DEFAULT_REMINDER_SECONDS))
                .map(|value| fields::number("reminder_before_seconds", value, REMINDER_SECONDS))
                .transpose()?,
            ticket_transfer: self.ticket_transfer.unwrap_or(false),
            sections,
        })
    }

    /// Checks that a replacement names every field: applying the defaults of a new event to an
    /// existing one would silently lose values.
    ///
    /// # Errors
    /// `invalid`, listing all missing fields in `missing`.
    pub(super) fn check_whole(&self) -> Result<(), Problem> {
        // Destructured, so that a new field does not compile until it is decided here.
        let Self {
            id: _,
            _state: _,
            name: _,
            date: _,
            // Given by the sections, if there are any, and else required.
            capacity: _,
            price,
            sections,
            description,
            category,
            venue,
            city,
            country,
            time_zone,
            max_tickets_per_account,
            reminder_before_seconds,
            ticket_transfer,
            sale: _,
            version: _,
        } = self;
        let own = [
            ("time_zone", time_zone.is_none()),
            ("max_tickets_per_account", max_tickets_per_account.is_none()),
            ("reminder_before_seconds", reminder_before_seconds.is_none()),
            ("ticket_transfer", ticket_transfer.is_none()),
            ("description", description.is_none()),
            ("category", category.is_none()),
            ("venue", venue.is_none()),
            ("city", city.is_none()),
            ("country", country.is_none()),
            ("price", sections.is_none() && price.is_none()),
        ];
        let own = own.into_iter().filter(|(_, is_missing)| *is_missing);
        let mut missing: Vec<_> = own.map(|(field, _)| field.to_owned()).collect();
        for (index, section) in sections.iter().flatten().enumerate() {
            if let Some(field) = section.missing(price.is_some()) {
                missing.push(format!("sections[{index}].{field}"));
            }
        }
        match missing.first().cloned() {
            None => Ok(()),
            Some(first) => {
                let detail = format!(
                    "PUT replaces the whole event, and these are missing: {}.",
                    missing.join(", ")
                );
                Err(invalid(first, detail).with("missing", missing))
            }
        }
    }

    fn price(&self, most: u32) -> Result<Money, Problem> {
        let free = Money::new(0, Currency::EUR);
        self.price
            .as_ref()
            .map_or(Ok(free), |price| price.money("price", most))
    }

    /// Validates the sections; `most` is the largest number of tickets in one booking.
    fn sections(&self, most: u32) -> Result<Vec<Section>, Problem> {
        let default_price = self.price(most)?;
        let Some(bodies) = &self.sections else {
            return Ok(vec![self.general_admission(default_price)?]);
        };
        if !(1..=MAX_SECTIONS_PER_EVENT).contains(&bodies.len()) {
            let detail = format!("1 to {MAX_SECTIONS_PER_EVENT} sections.");
            return Err(invalid("sections", detail));
        }
        let mut names = HashSet::new();
        let mut sections = Vec::with_capacity(bodies.len());
        for (index, body) in bodies.iter().enumerate() {
            let section = body.section(&format!("sections[{index}]"), default_price, most)?;
            if !names.insert(section.name.clone()) {
                let field = format!("sections[{index}].name");
                return Err(invalid(field, "Each section of an event has its own name."));
            }
            sections.push(section);
        }
        Ok(sections)
    }

    /// The only section of an event given by its capacity.
    fn general_admission(&self, price: Money) -> Result<Section, Problem> {
        let capacity = self.capacity.ok_or_else(|| {
            invalid(
                "capacity",
                "Give the capacity, or sections that have one each.",
            )
        })?;
        Ok(Section {
            id: SectionId(0),
            name: DEFAULT_SECTION.to_owned(),
            numbered: false,
            capacity: fields::number("capacity", capacity, 1..=MAX_SEATS_PER_EVENT)?,
            rows: None,
            seats_per_row: None,
            tier: Tier {
                name: DEFAULT_TIER.to_owned(),
                price,
            },
        })
    }

    fn total(&self, sections: &[Section]) -> Result<u32, Problem> {
        let total: u32 = sections.iter().map(|section| section.capacity).sum();
        if total > MAX_SEATS_PER_EVENT {
            let detail = format!("At most {MAX_SEATS_PER_EVENT} seats in all, not {total}.");
            return Err(invalid("sections", detail));
        }
        match self.capacity {
            Some(capacity) if capacity != i64::from(total) => {
                let detail = format!("The sections have {total} seats; leave the capacity out.");
                Err(invalid("capacity", detail))
            }
            _ => Ok(total),
        }
    }
}

impl SectionBody {
    /// The field that a replacement must name and this section does not. A price of the event is
    /// the default of its sections' tiers.
    fn missing(&self, has_default_price: bool) -> Option<&'static str> {
        // The capacity or the rows are required, and `numbered` decides which.
        let Self {
            _id: _,
            name: _,
            numbered: _,
            capacity: _,
            rows: _,
            seats_per_row: _,
            tier,
        } = self;
        match tier {
            None if has_default_price => None,
            None => Some("tier"),
            Some(TierBody { name, price: _ }) if name.is_none() => Some("tier.name"),
            Some(_) => None,
        }
    }

    fn section(&self, field: &str, default_price: Money, most: u32) -> Result<Section, Problem> {
        let name = fields::name(format!("{field}.name"), &self.name, MAX_WORD_CHARS)?;
        let tier = match &self.tier {
            None => Tier {
                name: DEFAULT_TIER.to_owned(),
                price: default_price,
            },
            Some(tier) => tier.tier(field, most)?,
        };
        let (capacity, rows) = if self.numbered {
            let (rows, seats_per_row) = self.layout(field)?;
            (rows * seats_per_row, Some((rows, seats_per_row)))
        } else {
            (self.places(field)?, None)
        };
        Ok(Section {
            id: SectionId(0),
            name,
            numbered: self.numbered,
            capacity,
            rows: rows.map(|(rows, _)| rows),
            seats_per_row: rows.map(|(_, seats_per_row)| seats_per_row),
            tier,
        })
    }

    /// Validates rows and seats per row of a numbered section.
    fn layout(&self, field: &str) -> Result<(u32, u32), Problem> {
        let rows_field = format!("{field}.rows");
        let rows = fields::number(rows_field, self.rows.unwrap_or(0), 1..=MAX_ROWS)?;
        let seats_field = format!("{field}.seats_per_row");
        let seats = self.seats_per_row.unwrap_or(0);
        let seats_per_row = fields::number(seats_field, seats, 1..=MAX_SEATS_PER_ROW)?;
        let capacity = rows * seats_per_row;
        if capacity > MAX_SEATS_PER_EVENT {
            let detail = format!("At most {MAX_SEATS_PER_EVENT} seats, not {capacity}.");
            return Err(invalid(format!("{field}.rows"), detail));
        }
        if self
            .capacity
            .is_some_and(|given| given != i64::from(capacity))
        {
            let detail = format!("Its rows have {capacity} seats; leave the capacity out.");
            return Err(invalid(format!("{field}.capacity"), detail));
        }
        Ok((rows, seats_per_row))
    }

    /// Validates the capacity of an unnumbered section.
    fn places(&self, field: &str) -> Result<u32, Problem> {
        if self.rows.is_some() || self.seats_per_row.is_some() {
            let detail = "Only a numbered section has rows. Give a capacity instead.";
            return Err(invalid(format!("{field}.rows"), detail));
        }
        let capacity = self.capacity.unwrap_or(0);
        fields::number(
            format!("{field}.capacity"),
            capacity,
            1..=MAX_SEATS_PER_EVENT,
        )
    }
}

impl TierBody {
    fn tier(&self, field: &str, most: u32) -> Result<Tier, Problem> {
        let name = self.name.as_deref().unwrap_or(DEFAULT_TIER);
        let name = fields::name(format!("{field}.tier.name"), name, MAX_WORD_CHARS)?;
        let price = self.price.money(&format!("{field}.tier.price"), most)?;
        Ok(Tier { name, price })
    }
}

impl MoneyBody {
    /// Validates that Stripe can charge both one ticket and a booking of `most` tickets.
    fn money(&self, field: &str, most: u32) -> Result<Money, Problem> {
        let unknown = || {
            let detail = "An ISO 4217 code of a currency that Stripe charges, such as eur.";
            invalid(format!("{field}.currency"), detail)
        };
        let currency = Currency::try_from(self.currency.as_str()).map_err(|_| unknown())?;
        let price = Money::new(self.amount_minor, currency);
        let total = price.times(most).unwrap_or(Money::new(i64::MAX, currency));
        let refused = match price.chargeable().and_then(|()| total.chargeable()) {
            Ok(()) => return Ok(price),
            Err(refused) => refused,
        };
        let detail = match refused {
            NotChargeable::UnknownCurrency(_) => return Err(unknown()),
            NotChargeable::BelowMinimum(least) => format!(
                "0, or at least {} ({least}, the smallest charge).",
                least.amount_minor
            ),
            NotChargeable::AboveMaximum(largest) => format!(
                "At most {}: {most} tickets, as many as a booking may have, can be {largest} at most.",
                largest.amount_minor / i64::from(most)
            ),
            NotChargeable::NotOfStep(step) => format!(
                "A multiple of {}: {} is charged in steps of {step}.",
                step.amount_minor,
                currency.as_str().to_ascii_uppercase()
            ),
        };
        Err(invalid(format!("{field}.amount_minor"), detail))
    }
}

fn time_zone(name: &str) -> Result<Tz, Problem> {
    name.parse()
        .map_err(|_| invalid("time_zone", "An IANA time zone such as Europe/Amsterdam."))
}

#[cfg(test)]
mod tests {
    use platform::problem::Kind;
    use serde_json::{Value, json};

    use super::*;

    fn draft(changes: Value) -> Result<Draft, Problem> {
        let Value::Object(changes) = changes else {
            panic!("not an object: {changes}")
        };
        let mut body = json!({"name": "Proms", "date": "2027-01-30T19:00:00Z"});
        body.as_object_mut().unwrap().extend(changes);
        serde_json::from_value::<EventBody>(body).unwrap().draft()
    }

    #[test]
    fn a_capacity_alone_makes_one_free_general_section() {
        let draft = draft(json!({"capacity": 500})).unwrap();
        let [section] = draft.sections.as_slice() else {
            panic!("not one section")
        };
        assert_eq!(
            (section.name.as_str(), section.numbered, section.capacity),
            ("General", false, 500)
        );
        assert!(section.tier.price.is_zero());
        assert_eq!(draft.reminder_before_seconds, Some(86_400));
    }

    #[test]
    fn the_capacity_of_a_numbered_section_is_its_rows_times_their_seats() {
        let stalls = json!({"name": "Stalls", "numbered": true, "rows": 3, "seats_per_row": 4});
        assert_eq!(draft(json!({"sections": [stalls]})).unwrap().capacity, 12);
        assert!(draft(json!({"sections": [stalls], "capacity": 13})).is_err());
    }

    #[test]
    fn a_reminder_can_be_switched_off() {
        let draft = draft(json!({"capacity": 1, "reminder_before_seconds": null})).unwrap();
        assert_eq!(draft.reminder_before_seconds, None);
    }

    #[test]
    fn a_price_that_stripe_refuses_is_refused_with_its_bound() {
        let refused = |amount: i64, currency: &str| {
            let price = json!({"amount_minor": amount, "currency": currency});
            draft(json!({"capacity": 10, "price": price})).unwrap_err()
        };
        for (amount, currency, bound) in [
            (30, "eur", "at least 50 (0.50 EUR"),
            (-1, "eur", "at least 50"),
            (4_505, "kwd", "A multiple of 10"),
            (350_050, "isk", "A multiple of 100"),
            (4_500, "eru", "such as eur"),
            (0, "zzz", "such as eur"),
            // Six tickets, the default, are at most 999,999.99.
            (16_666_667, "eur", "At most 16666666"),
            (i64::MAX, "eur", "At most 16666666"),
        ] {
            let problem = refused(amount, currency);
            assert_eq!(problem.kind(), Kind::Invalid);
            assert!(
                problem.detail().contains(bound),
                "{amount} {currency}: {problem}"
            );
        }
    }

    #[test]
    fn every_price_that_stripe_charges_is_taken() {
        for (amount, currency) in [
            (0, "eur"),
            (80_000_000, "idr"),
            (20_000_000, "cop"),
            (5_000_000, "huf"),
            (5_000_000, "krw"),
            (38_000, "ugx"),
            (350_000, "isk"),
            (16_666_666, "EUR"),
        ] {
            let price = json!({"amount_minor": amount, "currency": currency});
            let draft = draft(json!({"capacity": 10, "price": price})).unwrap();
            assert_eq!(draft.sections[0].tier.price.amount_minor, amount);
        }
        // With fewer tickets per booking, the maximum price of one is higher.
        let price = json!({"amount_minor": 99_999_999, "currency": "eur"});
        draft(json!({"capacity": 10, "price": price, "max_tickets_per_account": 1})).unwrap();
    }

    #[test]
    fn sections_of_one_event_have_different_names() {
        let section = json!({"name": "A", "capacity": 1});
        assert!(draft(json!({"sections": [section, section]})).is_err());
    }
}
