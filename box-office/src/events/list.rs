//! `GET /api/events`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::{DateTime, Utc};
use domain::event::Event;
use platform::http::{self, Query};
use platform::problem::Problem;
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, Postgres, QueryBuilder};

use super::store::{self, EventRow};
use super::when::{self, RangeEnd};
use crate::cached_response::CachedResponse;
use crate::cursor::Cursor;
use crate::fields::{self, invalid};
use crate::state::AppState;

const DEFAULT_LIMIT: i64 = 20;
const MAX_LIMIT: u32 = 100;
const MAX_FILTER_CHARS: usize = 200;

#[derive(Debug, Deserialize)]
pub(super) struct ListParams {
    q: Option<String>,
    city: Option<String>,
    country: Option<String>,
    category: Option<String>,
    from: Option<String>,
    to: Option<String>,
    cursor: Option<String>,
    limit: Option<i64>,
}

#[derive(Debug, Serialize)]
struct Page {
    events: Vec<Event>,
    next_cursor: Option<String>,
}

/// Returns matching announced events by date. Past ones are left out unless `from` or a past `to`
/// is given. `q` is a web search over name, venue, city, category and description; its last word
/// also matches as a prefix.
///
/// # Errors
/// `invalid`, naming the query parameter.
pub(super) async fn list(
    State(state): State<Arc<AppState>>,
    Query(filter): Query<ListParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let wanted = EventQuery::of(&filter, state.ctx.clock.now())?;
    let page = wanted.page(&state.ctx.db).await?;
    Ok(CachedResponse::json(&page).respond(&headers))
}

/// A validated filter.
#[derive(Debug)]
struct EventQuery {
    text: Option<SearchText>,
    city: Option<String>,
    country: Option<String>,
    category: Option<String>,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    after: Option<(DateTime<Utc>, i64)>,
    limit: usize,
}

impl EventQuery {
    fn of(filter: &ListParams, now: DateTime<Utc>) -> Result<Self, Problem> {
        let limit = filter.limit.unwrap_or(DEFAULT_LIMIT);
        let limit = fields::number("limit", limit, 1..=MAX_LIMIT)?;
        let line = |field: &str, value: &Option<String>| {
            value
                .as_deref()
                .map(|text| fields::line(field, text, MAX_FILTER_CHARS))
                .transpose()
        };
        let bound = |field: &str, value: &Option<String>, end: RangeEnd| {
            let value = value.as_deref().filter(|text| !text.is_empty());
            value.map(|text| when::bound(field, text, end)).transpose()
        };
        let to = bound("to", &filter.to, RangeEnd::Last)?;
        let upcoming = to.is_none_or(|to| to >= now).then_some(now);
        let country = filter.country.as_deref();
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Self {
            text: filled(line("q", &filter.q)?).map(|text| SearchText::of(&text)),
            city: filled(line("city", &filter.city)?),
            country: filled(
                country
                    .map(|text| fields::country("country", text))
                    .transpose()?,
            ),
            category: filled(line("category", &filter.category)?),
            from: bound("from", &filter.from, RangeEnd::First)?.or(upcoming),
            to,
            after: filter.cursor.as_deref().map(position).transpose()?,
            limit: usize::try_from(limit).expect("100 fits everywhere"),
        })
    }

    async fn page(&self, pool: &PgPool) -> Result<Page, sqlx::Error> {
        let mut conn = pool.acquire().await?;
        let rows: Vec<EventRow> = self.query().build_query_as().fetch_all(&mut *conn).await?;
        let mut events = store::with_sections(&mut conn, rows).await?;
        let is_last = events.len() <= self.limit;
        events.truncate(self.limit);
        let next_cursor = events
            .last()
            .filter(|_| !is_last)
            .map(|last| Cursor([last.date.timestamp_micros(), last.id.0]).encode());
        Ok(Page {
            events,
            next_cursor,
        })
    }

    /// Builds a statement with only the requested conditions, so that each can use its index. It
    /// fetches one row more than the page holds, to detect a next page.
    fn query(&self) -> QueryBuilder<Postgres> {
        let mut sql = QueryBuilder::new(
            "select id, version, name, date, capacity, description, category, venue, city,
                    country, time_zone, state, max_tickets_per_account, reminder_before_seconds,
                    ticket_transfer
             from box_office.events where state = 'announced'",
        );
        if let Some(SearchText { whole, beginning }) = &self.text {
            sql.push(" and search @@ (websearch_to_tsquery('simple', ")
                .push_bind(whole.clone());
            sql.push(")");
            if let Some(beginning) = beginning {
                sql.push(" && to_tsquery('simple', ")
                    .push_bind(format!("{beginning}:*"));
                sql.push(")");
            }
            sql.push(")");
        }
        if let Some(city) = &self.city {
            sql.push(" and lower(city) = lower(")
                .push_bind(city.clone())
                .push(")");
        }
        if let Some(country) = &self.country {
            sql.push(" and country = ").push_bind(country.clone());
        }
        if let Some(category) = &self.category {
            sql.push(" and lower(category) = lower(")
                .push_bind(category.clone())
                .push(")");
        }
        if let Some(from) = self.from {
            sql.push(" and date >= ").push_bind(from);
        }
        if let Some(to) = self.to {
            sql.push(" and date <= ").push_bind(to);
        }
        if let Some((date, id)) = self.after {
            sql.push(" and (date, id) > (")
                .push_bind(date)
                .push(", ")
                .push_bind(id)
                .push(")");
        }
        let rows = i64::try_from(self.limit + 1).expect("101 fits everywhere");
        sql.push(" order by date, id limit ").push_bind(rows);
        sql
    }
}

/// Decodes the sort key of the previous page's last row.
fn position(cursor: &str) -> Result<(DateTime<Utc>, i64), Problem> {
    let Cursor([micros, id]) = Cursor::decode(cursor)?;
    let date = DateTime::from_timestamp_micros(micros).ok_or_else(|| {
        invalid(
            "cursor",
            "Must be a next_cursor of this listing, or absent.",
        )
    })?;
    Ok((http::date("cursor", date)?, id))
}

/// A web search query and an optional prefix match.
#[derive(Debug, PartialEq, Eq)]
struct SearchText {
    whole: String,
    beginning: Option<String>,
}

impl SearchText {
    /// The last word becomes a prefix match if it is alphanumeric and not part of a quoted phrase
    /// or an operator.
    fn of(text: &str) -> Self {
        let (rest, last) = text.rsplit_once(char::is_whitespace).unwrap_or(("", text));
        let is_word = last.chars().all(char::is_alphanumeric) && !last.eq_ignore_ascii_case("or");
        let ends_with_or = rest
            .split_whitespace()
            .last()
            .is_some_and(|word| word.eq_ignore_ascii_case("or"));
        if is_word && !ends_with_or && !text.contains('"') {
            Self {
                whole: rest.to_owned(),
                beginning: Some(last.to_owned()),
            }
        } else {
            Self {
                whole: text.to_owned(),
                beginning: None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(text: &str) -> (String, Option<String>) {
        let SearchText { whole, beginning } = SearchText::of(text);
        (whole, beginning)
    }

    #[test]
    fn the_last_plain_word_may_go_on() {
        assert_eq!(search("pro"), (String::new(), Some("pro".into())));
        assert_eq!(
            search("night of pro"),
            ("night of".into(), Some("pro".into()))
        );
    }

    #[test]
    fn operators_and_phrases_are_left_to_the_web_search() {
        for text in [
            "\"night of\"",
            "\"night of",
            "proms -rock",
            "proms or rock",
            "rock-n'roll",
            "a or",
        ] {
            assert_eq!(search(text), (text.to_owned(), None));
        }
    }
}
