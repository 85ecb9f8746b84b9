//! What tokens cost. The numbers come from the configuration; none is invented here, and their currency is the reader's.

use std::collections::BTreeMap;

use causeway_event::Invalid;
use causeway_event::payload::Usage;
use serde::{Deserialize, Serialize};

/// Tokens that a price is for.
const PER: f64 = 1e6;
/// Costs are told to so many parts of one: what floating point adds below is noise.
const PARTS: f64 = 1e9;

/// What a model's tokens cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// The model's name, as events have it.
    pub model: String,
    /// A million tokens that the model reads.
    pub input: f64,
    /// A million tokens that it writes.
    pub output: f64,
}

/// The prices of some models.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Price>", into = "Vec<Price>")]
pub struct Prices(BTreeMap<String, Price>);

impl Prices {
    /// Whether no model has a price.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this model has a price.
    pub fn knows(&self, model: &str) -> bool {
        self.0.contains_key(model)
    }

    /// What these tokens of this model cost; `None` where it has no price.
    pub fn cost(&self, model: &str, usage: Usage) -> Option<f64> {
        let price = self.0.get(model)?;
        Some(rounded((usage.input_tokens as f64 * price.input + usage.output_tokens as f64 * price.output) / PER))
    }
}

/// A sum of costs without the noise of adding them.
pub(crate) fn rounded(cost: f64) -> f64 {
    (cost * PARTS).round() / PARTS
}

impl TryFrom<Vec<Price>> for Prices {
    type Error = Invalid;

    fn try_from(list: Vec<Price>) -> Result<Self, Invalid> {
        let mut prices = BTreeMap::new();
        for price in list {
            let model = price.model.clone();
            if ![price.input, price.output].iter().all(|price| price.is_finite() && *price >= 0.0) {
                return Err(Invalid::new("", format!("a price of {model} is not a number from 0")));
            }
            if prices.insert(model.clone(), price).is_some() {
                return Err(Invalid::new("", format!("{model} has two prices")));
            }
        }
        Ok(Self(prices))
    }
}

impl From<Prices> for Vec<Price> {
    fn from(prices: Prices) -> Self {
        prices.0.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cost_is_that_of_its_tokens() {
        let prices: Prices = serde_json::from_value(json!([{"model": "m", "input": 0.1, "output": 0.2}])).unwrap();
        let usage = |input_tokens, output_tokens| Usage { input_tokens, output_tokens };
        assert_eq!(prices.cost("m", usage(1_000_000, 1_000_000)), Some(0.3));
        assert_eq!(prices.cost("m", usage(0, 1)), Some(0.000_000_2));
        assert_eq!(prices.cost("m-mini", usage(1, 1)), None);
    }

    #[test]
    fn prices_must_make_sense() {
        let read = |json| serde_json::from_value::<Prices>(json).map_err(|error| error.to_string());
        assert!(read(json!([])).unwrap().is_empty());
        assert!(read(json!([{"model": "m", "input": -1, "output": 0}])).unwrap_err().contains("a price of m"));
        let m = json!({"model": "m", "input": 1, "output": 0});
        assert!(read(json!([m, m])).unwrap_err().contains("m has two prices"));
    }
}
