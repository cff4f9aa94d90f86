//! Parser of form-encoded parameters with Stripe's bracket nesting, `metadata[booking_id]=…`.

use std::collections::BTreeMap;

use url::form_urlencoded;

use super::errors::Refusal;

/// Maximum number of parameters of a request.
const MAX_PARAMETERS: usize = 500;

/// Parameters of a request, keyed by their full bracketed name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Form(BTreeMap<String, String>);

impl Form {
    /// Parses query and body. The last value of a repeated name wins, as at Stripe; elements of
    /// lists (`expand[]`) are numbered instead.
    pub(crate) fn parse(query: &str, body: &[u8]) -> Result<Self, Refusal> {
        let pairs = form_urlencoded::parse(query.as_bytes()).chain(form_urlencoded::parse(body));
        let mut form = BTreeMap::new();
        for (index, (name, value)) in pairs.enumerate() {
            if index == MAX_PARAMETERS {
                return Err(Refusal::malformed("Too many parameters."));
            }
            let name = match name.strip_suffix("[]") {
                Some(list) => format!("{list}[{index}]"),
                None => name.into_owned(),
            };
            form.insert(name, value.into_owned());
        }
        Ok(Self(form))
    }

    /// Returns every parameter, sorted by name.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the parameter with this full name; an empty one counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// As [`get`](Self::get), but returns an empty value, which unsets a field.
    pub(crate) fn given(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(crate) fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).ok_or_else(|| {
            let message = format!("Missing required param: {name}.");
            Refusal::parameter("parameter_missing", name, message)
        })
    }

    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, Refusal> {
        self.get(name)
            .map(|value| value.parse().map_err(|_| invalid_integer(name, value)))
            .transpose()
    }

    pub(crate) fn boolean(&self, name: &str) -> Result<bool, Refusal> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => {
                let message = format!("Invalid boolean: {other}");
                Err(Refusal::parameter("parameter_unknown", name, message))
            }
        }
    }

    /// Parses an amount in the currency's smallest unit, at least 1; `amounts` checks the other
    /// bounds.
    pub(crate) fn amount(&self, name: &str) -> Result<Option<i64>, Refusal> {
        let Some(amount) = self.integer(name)? else {
            return Ok(None);
        };
        if amount < 1 {
            let message = "This value must be greater than or equal to 1.";
            return Err(Refusal::parameter(
                "parameter_invalid_integer",
                name,
                message,
            ));
        }
        Ok(Some(amount))
    }

    /// Returns the members of `name[…]`.
    pub(crate) fn nested(&self, name: &str) -> BTreeMap<String, String> {
        let inner = |key: &str| {
            let inner = key
                .strip_prefix(name)?
                .strip_prefix('[')?
                .strip_suffix(']')?;
            Some(inner.to_owned())
        };
        self.0
            .iter()
            .filter_map(|(key, value)| Some((inner(key)?, value.clone())))
            .collect()
    }

    /// Parses `metadata[…]` within Stripe's bounds.
    pub(crate) fn metadata(&self) -> Result<BTreeMap<String, String>, Refusal> {
        let mut metadata = self.nested("metadata");
        metadata.retain(|_, value| !value.is_empty());
        let too_long = |(key, value): (&String, &String)| {
            key.chars().count() > 40 || value.chars().count() > 500
        };
        if metadata.len() > 50 || metadata.iter().any(too_long) {
            let message = "Metadata takes up to 50 keys of up to 40 characters with values of up \
                           to 500 characters.";
            return Err(Refusal::parameter(
                "parameter_invalid_string_too_long",
                "metadata",
                message,
            ));
        }
        Ok(metadata)
    }

    /// Returns whether `expand[]` names `field`.
    pub(crate) fn expands(&self, field: &str) -> bool {
        self.nested("expand")
            .values()
            .any(|wanted| wanted.strip_prefix("data.").unwrap_or(wanted) == field)
    }
}

fn invalid_integer(name: &str, value: &str) -> Refusal {
    let message = format!("Invalid integer: {value}");
    Refusal::parameter("parameter_invalid_integer", name, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_nest_and_lists_keep_every_element() {
        let body = b"metadata[booking_id]=7&expand[]=latest_charge&expand[]=customer&amount=5";
        let form = Form::parse("limit=3", body).unwrap();
        assert_eq!(
            form.nested("metadata")
                .get("booking_id")
                .map(String::as_str),
            Some("7")
        );
        assert!(form.expands("latest_charge") && form.expands("customer"));
        assert_eq!(form.integer("limit").unwrap(), Some(3));
    }

    #[test]
    fn an_amount_below_one_is_refused() {
        for amount in ["0", "-5", "1.5", "ten"] {
            let form = Form::parse("", format!("amount={amount}").as_bytes()).unwrap();
            assert_eq!(form.amount("amount").unwrap_err().status, 400, "{amount}");
        }
    }
}
