//! What tokens cost: prices an hour turned into prices a million tokens, and a model's whole life added up.
//! Plain arithmetic with units in the names. It must not know where speeds come from.

use crate::machine::Price;

/// Tokens in the unit in which prices are told.
pub const TOKENS_PER_MILLION: f64 = 1e6;
const SECONDS_PER_HOUR: f64 = 3600.0;

/// An amount of one currency.
#[derive(Clone, Debug, PartialEq)]
pub struct Money {
    /// ISO 4217 code.
    pub currency: String,
    /// How much of it.
    pub amount: f64,
}

/// What a million tokens cost on `machines` machines that together do so many tokens a second, busy all the
/// time. `None` where they do no tokens.
pub fn price_per_million_tokens(price: &Price, machines: f64, tokens_per_second: f64) -> Option<Money> {
    let hours = TOKENS_PER_MILLION / tokens_per_second / SECONDS_PER_HOUR;
    let amount = price.per_hour * machines * hours;
    (tokens_per_second > 0.0 && amount.is_finite())
        .then(|| Money { currency: price.currency.clone(), amount })
}

/// What a model costs over its life: training once, and serving as long as it is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lifetime {
    /// Tokens that it is trained on.
    pub train_tokens: f64,
    /// What a million of them costs.
    pub train_price_per_million_tokens: f64,
    /// Prompt tokens over its life.
    pub prefill_tokens: f64,
    /// What a million of them costs.
    pub prefill_price_per_million_tokens: f64,
    /// Generated tokens over its life.
    pub decode_tokens: f64,
    /// What a million of them costs.
    pub decode_price_per_million_tokens: f64,
}

impl Lifetime {
    /// Amount for training, in the currency of the prices.
    pub fn train_amount(&self) -> f64 {
        self.train_tokens / TOKENS_PER_MILLION * self.train_price_per_million_tokens
    }

    /// Amount for serving: prompts and generated tokens.
    pub fn serve_amount(&self) -> f64 {
        let prefill = self.prefill_tokens * self.prefill_price_per_million_tokens;
        let decode = self.decode_tokens * self.decode_price_per_million_tokens;
        (prefill + decode) / TOKENS_PER_MILLION
    }

    /// Both.
    pub fn total_amount(&self) -> f64 {
        self.train_amount() + self.serve_amount()
    }

    /// How many times its present serving brings serving to the cost of training; `None` if serving is free.
    pub fn servings_to_match_training(&self) -> Option<f64> {
        let serve = self.serve_amount();
        (serve > 0.0).then(|| self.train_amount() / serve)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(per_hour: f64) -> Price {
        let text = || String::from("test");
        Price { currency: "USD".into(), per_hour, basis: text(), as_of: text(), source: text() }
    }

    #[test]
    fn a_thousand_tokens_a_second_is_3_6_million_an_hour() {
        let money = price_per_million_tokens(&price(3.6), 1.0, 1000.0).unwrap();
        assert!((money.amount - 1.0).abs() < 1e-12, "{money:?}");
        assert_eq!(money.currency, "USD");
        let eight = price_per_million_tokens(&price(3.6), 8.0, 1000.0).unwrap();
        assert!((eight.amount - 8.0).abs() < 1e-12);
        assert_eq!(price_per_million_tokens(&price(3.6), 1.0, 0.0), None);
    }

    #[test]
    fn a_life_is_training_and_serving() {
        let life = Lifetime {
            train_tokens: 2e6,
            train_price_per_million_tokens: 3.0,
            prefill_tokens: 1e6,
            prefill_price_per_million_tokens: 0.5,
            decode_tokens: 5e5,
            decode_price_per_million_tokens: 2.0,
        };
        assert_eq!((life.train_amount(), life.serve_amount(), life.total_amount()), (6.0, 1.5, 7.5));
        assert_eq!(life.servings_to_match_training(), Some(4.0));
        assert_eq!(Lifetime::default().servings_to_match_training(), None);
    }
}
