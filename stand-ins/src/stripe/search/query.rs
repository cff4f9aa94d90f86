//! Parser of Stripe's search query language: clauses such as `status:"succeeded"`,
//! `-currency:"eur"`, `amount>1000` and `metadata["booking_id"]:"7"`, all joined by `AND` or all by
//! `OR`.

use crate::stripe::errors::Refusal;

/// Maximum number of clauses, as at Stripe.
const MAX_CLAUSES: usize = 10;

/// Left-hand side of a clause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// Field of the object.
    Named(String),
    /// Key of its metadata.
    Metadata(String),
}

/// Value of a field, or right-hand side of a clause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Is,
    Above,
    AtLeast,
    Below,
    AtMost,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Clause {
    is_negated: bool,
    field: Field,
    comparison: Comparison,
    /// `None` for `null`.
    value: Option<Value>,
}

/// A parsed query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    clauses: Vec<Clause>,
    is_any: bool,
}

impl Query {
    /// Parses a query over known fields.
    pub(super) fn parse(text: &str, is_known: fn(&Field) -> bool) -> Result<Self, Refusal> {
        let mut rest = Reader(text.trim_start());
        let mut clauses = vec![rest.clause().ok_or_else(unreadable)?];
        let mut joints = Vec::new();
        while !rest.0.is_empty() {
            joints.push(rest.joint().ok_or_else(unreadable)?);
            clauses.push(rest.clause().ok_or_else(unreadable)?);
        }
        if joints.iter().any(|joint| *joint != joints[0]) {
            return Err(refusal("AND and OR can't be mixed in one search query."));
        }
        if clauses.len() > MAX_CLAUSES {
            return Err(refusal("A search query may have up to 10 clauses."));
        }
        if let Some(clause) = clauses.iter().find(|clause| !is_known(&clause.field)) {
            let Field::Named(name) = &clause.field else {
                return Err(unreadable());
            };
            return Err(refusal(&format!(
                "Field `{name}` is an unsupported search field."
            )));
        }
        Ok(Self {
            clauses,
            is_any: joints.first() == Some(&Joint::Or),
        })
    }

    /// Returns whether an object with these values matches.
    pub(super) fn covers(&self, value: impl Fn(&Field) -> Option<Value>) -> bool {
        let covers = |clause: &Clause| clause.covers(value(&clause.field).as_ref());
        if self.is_any {
            self.clauses.iter().any(covers)
        } else {
            self.clauses.iter().all(covers)
        }
    }
}

impl Clause {
    fn covers(&self, found: Option<&Value>) -> bool {
        let is_so = match (found, &self.value) {
            (None, None) => true,
            (Some(Value::Number(found)), Some(Value::Number(wanted))) => match self.comparison {
                Comparison::Is => found == wanted,
                Comparison::Above => found > wanted,
                Comparison::AtLeast => found >= wanted,
                Comparison::Below => found < wanted,
                Comparison::AtMost => found <= wanted,
            },
            (Some(Value::Text(found)), Some(Value::Text(wanted))) => {
                self.comparison == Comparison::Is && found.eq_ignore_ascii_case(wanted)
            }
            _ => false,
        };
        is_so != self.is_negated
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joint {
    And,
    Or,
}

/// The unparsed rest of a query.
struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    fn clause(&mut self) -> Option<Clause> {
        let is_negated = self.skip("-");
        let field = self.field()?;
        let comparison = self.comparison()?;
        let value = self.value()?;
        if comparison != Comparison::Is && !matches!(value, Some(Value::Number(_))) {
            return None;
        }
        self.0 = self.0.trim_start();
        Some(Clause {
            is_negated,
            field,
            comparison,
            value,
        })
    }

    /// Parses `AND` or `OR`; nothing means `AND`.
    fn joint(&mut self) -> Option<Joint> {
        let joint = match self.0.split_once(char::is_whitespace) {
            Some((word, rest)) if word.eq_ignore_ascii_case("and") => Some((Joint::And, rest)),
            Some((word, rest)) if word.eq_ignore_ascii_case("or") => Some((Joint::Or, rest)),
            _ => None,
        };
        let (joint, rest) = joint.unwrap_or((Joint::And, self.0));
        self.0 = rest.trim_start();
        (!self.0.is_empty()).then_some(joint)
    }

    fn field(&mut self) -> Option<Field> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        let name = self.take_while(is_name);
        if name.is_empty() {
            return None;
        }
        if name != "metadata" {
            return Some(Field::Named(name.to_owned()));
        }
        let is_open = self.skip("[");
        let key = self.quoted().filter(|_| is_open)?;
        self.skip("]").then_some(Field::Metadata(key))
    }

    fn comparison(&mut self) -> Option<Comparison> {
        [
            (":", Comparison::Is),
            (">=", Comparison::AtLeast),
            ("<=", Comparison::AtMost),
            (">", Comparison::Above),
            ("<", Comparison::Below),
            ("=", Comparison::Is),
        ]
        .into_iter()
        .find_map(|(sign, comparison)| self.skip(sign).then_some(comparison))
    }

    /// Parses a value; the inner `None` is `null`.
    fn value(&mut self) -> Option<Option<Value>> {
        if let Some(text) = self.quoted() {
            return Some(Some(Value::Text(text)));
        }
        let word = self.take_while(|c| c.is_ascii_alphanumeric() || c == '-');
        if word == "null" {
            return Some(None);
        }
        word.parse().ok().map(|number| Some(Value::Number(number)))
    }

    /// Parses a text in single or double quotes; a backslash escapes a quote.
    fn quoted(&mut self) -> Option<String> {
        let quote = self.0.chars().next().filter(|c| ['\'', '"'].contains(c))?;
        let mut text = String::new();
        let mut is_kept = false;
        for (place, c) in self.0.char_indices().skip(1) {
            match c {
                '\\' if !is_kept => is_kept = true,
                c if c == quote && !is_kept => {
                    self.0 = &self.0[place + c.len_utf8()..];
                    return Some(text);
                }
                c => {
                    text.push(c);
                    is_kept = false;
                }
            }
        }
        None
    }

    fn skip(&mut self, sign: &str) -> bool {
        let rest = self.0.strip_prefix(sign);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let end = self.0.find(|c| !belongs(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }
}

fn unreadable() -> Refusal {
    refusal(
        "We were unable to parse your search query. Try using the format \
         `metadata[\"key\"]:\"value\"` to query for metadata or `key:\"value\"` to query for other \
         fields.",
    )
}

fn refusal(message: &str) -> Refusal {
    Refusal::malformed(message).with("param", "query".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(query: &str) -> bool {
        let query = Query::parse(query, |field| *field != Field::Named("shoe".to_owned()));
        query.unwrap().covers(|field| match field {
            Field::Named(name) if name == "status" => Some(Value::Text("succeeded".to_owned())),
            Field::Named(name) if name == "amount" => Some(Value::Number(1_000)),
            Field::Metadata(key) if key == "it's" => Some(Value::Text("a \"b\"".to_owned())),
            _ => None,
        })
    }

    #[test]
    fn clauses_are_compared_joined_and_negated() {
        for (query, expected) in [
            ("status:'succeeded'", true),
            ("status:\"canceled\"", false),
            ("-status:'canceled'", true),
            ("amount>999 AND amount<=1000", true),
            ("amount>999 amount<1000", false),
            ("amount<1000 OR status:'succeeded'", true),
            ("amount:1000", true),
            (r#"metadata['it\'s']:"a \"b\"""#, true),
            (r#"metadata["it's"]:'a "b"'"#, true),
            ("metadata['other']:null", true),
            ("-metadata[\"it's\"]:null", true),
        ] {
            assert_eq!(found(query), expected, "{query}");
        }
    }

    #[test]
    fn what_is_no_query_is_refused() {
        for query in [
            "",
            "succeeded",
            "status",
            "status:succeeded",
            "status:'succeeded",
            "status:'a' AND",
            "amount>'1'",
            "metadata:'a'",
            "metadata['a':'b'",
            "shoe:'1'",
            "status:'a' AND status:'b' OR status:'c'",
        ] {
            let parsed = Query::parse(query, |field| *field != Field::Named("shoe".to_owned()));
            assert_eq!(parsed.unwrap_err().status, 400, "{query}");
        }
    }
}
