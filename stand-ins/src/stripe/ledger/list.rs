//! Objects in order of creation, with Stripe's cursor pagination.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::stripe::errors::Refusal;
use crate::stripe::form::Form;
use crate::stripe::model::{Charge, Customer, Dispute, PaymentIntent, PaymentMethod, Refund};

/// An object that can be listed.
pub(crate) trait Listed {
    fn id(&self) -> &str;
    /// Time of creation, in seconds since the Unix epoch.
    fn created(&self) -> i64;
}

impl Listed for PaymentIntent {
    fn id(&self) -> &str {
        &self.id
    }

    fn created(&self) -> i64 {
        self.created.timestamp()
    }
}

impl Listed for Refund {
    fn id(&self) -> &str {
        &self.id
    }

    fn created(&self) -> i64 {
        self.created.timestamp()
    }
}

impl Listed for Charge {
    fn id(&self) -> &str {
        &self.id
    }

    fn created(&self) -> i64 {
        self.created.timestamp()
    }
}

impl Listed for Customer {
    fn id(&self) -> &str {
        &self.id
    }

    fn created(&self) -> i64 {
        self.created.timestamp()
    }
}

impl Listed for PaymentMethod {
    fn id(&self) -> &str {
        &self.id
    }

    fn created(&self) -> i64 {
        self.created.timestamp()
    }
}

impl Listed for Dispute {
    fn id(&self) -> &str {
        &self.id
    }

    fn created(&self) -> i64 {
        self.created.timestamp()
    }
}

pub(crate) struct Catalogue<T> {
    items: Vec<T>,
    positions: HashMap<String, usize>,
}

impl<T> Default for Catalogue<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            positions: HashMap::new(),
        }
    }
}

impl<T: Listed> Catalogue<T> {
    pub(crate) fn insert(&mut self, item: T) {
        self.positions
            .insert(item.id().to_owned(), self.items.len());
        self.items.push(item);
    }

    pub(crate) fn get(&self, id: &str) -> Option<&T> {
        self.positions
            .get(id)
            .map(|&position| &self.items[position])
    }

    pub(crate) fn get_mut(&mut self, id: &str) -> Option<&mut T> {
        self.positions
            .get(id)
            .map(|&position| &mut self.items[position])
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.items.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.items.iter_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// Returns a page, newest first, as Stripe's list object.
    pub(crate) fn page(
        &self,
        query: &ListQuery,
        wanted: impl Fn(&T) -> bool,
        show: impl Fn(&T) -> Value,
    ) -> Result<Value, Refusal> {
        let position = |id: &String, param| {
            let position = self.positions.get(id).copied();
            position.ok_or_else(|| Refusal::missing("object", id, param))
        };
        if let Some(id) = &query.ending_before {
            let newer = &self.items[position(id, "ending_before")? + 1..];
            let matching = newer
                .iter()
                .filter(|item| query.covers(item.created()) && wanted(item));
            let (mut data, has_more) = first(matching, query.limit, show);
            data.reverse();
            return Ok(query.answer(&data, has_more));
        }
        let end = match &query.starting_after {
            None => self.items.len(),
            Some(id) => position(id, "starting_after")?,
        };
        let matching = self.items[..end]
            .iter()
            .rev()
            .filter(|item| query.covers(item.created()) && wanted(item));
        let (data, has_more) = first(matching, query.limit, show);
        Ok(query.answer(&data, has_more))
    }

    /// Returns up to `limit` wanted objects after the cursor `after`, newest first, and whether
    /// more follow; `None` when the cursor is unknown.
    pub(crate) fn found(
        &self,
        after: Option<&str>,
        limit: usize,
        wanted: impl Fn(&T) -> bool,
    ) -> Option<(Vec<&T>, bool)> {
        let end = match after {
            None => self.items.len(),
            Some(id) => *self.positions.get(id)?,
        };
        let matching = self.items[..end].iter().rev().filter(|item| wanted(item));
        Some(first(matching, limit, |item| item))
    }
}

/// Returns the first `limit` items, and whether more follow.
pub(crate) fn first<T, U>(
    mut all: impl Iterator<Item = T>,
    limit: usize,
    show: impl Fn(T) -> U,
) -> (Vec<U>, bool) {
    let shown = all.by_ref().take(limit).map(show).collect();
    (shown, all.next().is_some())
}

/// Parameters of a list call.
pub(crate) struct ListQuery {
    url: String,
    pub(crate) limit: usize,
    pub(crate) starting_after: Option<String>,
    pub(crate) ending_before: Option<String>,
    /// Inclusive bounds of `created`, in seconds since the Unix epoch.
    created: (i64, i64),
}

impl ListQuery {
    pub(crate) fn parse(url: impl Into<String>, form: &Form) -> Result<Self, Refusal> {
        Ok(Self {
            url: url.into(),
            limit: limit(form)?,
            starting_after: form.get("starting_after").map(str::to_owned),
            ending_before: form.get("ending_before").map(str::to_owned),
            created: created_bounds(form)?,
        })
    }

    pub(crate) fn covers(&self, created: i64) -> bool {
        (self.created.0..=self.created.1).contains(&created)
    }

    /// Renders Stripe's list object.
    pub(crate) fn answer(&self, data: &[Value], has_more: bool) -> Value {
        json!({ "object": "list", "url": self.url, "has_more": has_more, "data": data })
    }
}

/// Parses `limit`; 10 by default.
pub(crate) fn limit(form: &Form) -> Result<usize, Refusal> {
    let Some(limit) = form.integer("limit")? else {
        return Ok(10);
    };
    usize::try_from(limit)
        .ok()
        .filter(|limit| (1..=100).contains(limit))
        .ok_or_else(|| {
            let message = "This value must be between 1 and 100.";
            Refusal::parameter("parameter_invalid_integer", "limit", message)
        })
}

fn created_bounds(form: &Form) -> Result<(i64, i64), Refusal> {
    if let Some(exact) = form.integer("created")? {
        return Ok((exact, exact));
    }
    let after = form
        .integer("created[gt]")?
        .map(|bound| bound.saturating_add(1));
    let from = form.integer("created[gte]")?.max(after).unwrap_or(i64::MIN);
    let before = form
        .integer("created[lt]")?
        .map_or(i64::MAX, |bound| bound.saturating_sub(1));
    let to = form
        .integer("created[lte]")?
        .unwrap_or(i64::MAX)
        .min(before);
    Ok((from, to))
}
