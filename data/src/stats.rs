//! Held-out losses with their standard errors. The sampling unit is the document, not the token:
//! tokens of one document are far from independent, and errors over tokens would be several times
//! too small. Knows nothing of models or files.
//!
//! A loss per token over documents of different lengths is a ratio of two sums. With yᵢ the summed
//! loss and xᵢ the tokens of document i of n, the ratio estimator R = Σyᵢ / Σxᵢ has the standard
//! error, by linearisation (Cochran, Sampling Techniques, 3rd ed., 1977, chapter 6):
//!
//! ```text
//! SE(R) = sqrt( n / (n - 1) · Σ (yᵢ - R·xᵢ)² ) / Σxᵢ
//! ```
//!
//! Two models over the same documents are compared by the ratio of zᵢ = yᵢ(a) - yᵢ(b) to xᵢ: what
//! makes a document hard for both cancels, so that the error of a difference is much less than the
//! errors of the two losses (Miller, Adding Error Bars to Evals, arXiv:2411.00640, sections 2.2 and 4).

use crate::error::DataError;

/// What one model lost on one document.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DocumentLoss {
    /// Sum over the document's target tokens of the negative log-probability, in nats.
    pub nats: f64,
    /// Target tokens.
    pub tokens: u64,
    /// Bytes of the document's text.
    pub bytes: u64,
}

/// A mean with its standard error over documents.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Nats per token, or per byte.
    pub mean: f64,
    /// In the same unit; none with fewer than two documents, which say nothing of their spread.
    pub standard_error: Option<f64>,
    /// Documents that it was taken over.
    pub documents: usize,
}

impl Estimate {
    /// Whether it differs from zero by more than two standard errors, as a difference between two
    /// models must to be called one. False where there is no standard error.
    pub fn distinguishable(&self) -> bool {
        self.standard_error.is_some_and(|error| self.mean.abs() > 2.0 * error)
    }

    /// For a loss in nats per token: exp of it, and its standard error to first order
    /// (the derivative of exp times the error).
    pub fn perplexity(&self) -> Estimate {
        let mean = self.mean.exp();
        Estimate { mean, standard_error: self.standard_error.map(|error| mean * error), ..*self }
    }

    /// The same in bits: a loss in nats divided by ln 2.
    pub fn in_bits(&self) -> Estimate {
        let bits = |nats: f64| nats / std::f64::consts::LN_2;
        Estimate { mean: bits(self.mean), standard_error: self.standard_error.map(bits), ..*self }
    }
}

/// Nats per token. Documents without tokens are left out; NaN if none are left.
pub fn loss_per_token(losses: &[DocumentLoss]) -> Estimate {
    ratio(losses.iter().map(|loss| (loss.nats, loss.tokens as f64)))
}

/// Nats per byte of text, which compares models with different vocabularies. Documents without
/// bytes are left out; NaN if none are left.
pub fn loss_per_byte(losses: &[DocumentLoss]) -> Estimate {
    ratio(losses.iter().map(|loss| (loss.nats, loss.bytes as f64)))
}

/// Nats per token that `a` loses more than `b` over the same documents, with the paired standard error.
///
/// # Errors
/// [`DataError::NotPaired`] if the documents differ in number or in tokens.
pub fn paired_difference(a: &[DocumentLoss], b: &[DocumentLoss]) -> Result<Estimate, DataError> {
    if a.len() != b.len() {
        return Err(DataError::NotPaired { problem: format!("{} against {} documents", a.len(), b.len()) });
    }
    if let Some((i, (a, b))) = a.iter().zip(b).enumerate().find(|(_, (a, b))| a.tokens != b.tokens) {
        let problem = format!("document {i} has {} against {} tokens", a.tokens, b.tokens);
        return Err(DataError::NotPaired { problem });
    }
    Ok(ratio(a.iter().zip(b).map(|(a, b)| (a.nats - b.nats, a.tokens as f64))))
}

/// The ratio estimator above over pairs (yᵢ, xᵢ).
fn ratio(pairs: impl Iterator<Item = (f64, f64)> + Clone) -> Estimate {
    let pairs = pairs.filter(|(_, x)| *x > 0.0);
    let n = pairs.clone().count();
    let (y, x) = pairs.clone().fold((0.0, 0.0), |(ys, xs), (y, x)| (ys + y, xs + x));
    let mean = y / x;
    let squares: f64 = pairs.map(|(y, x)| (y - mean * x).powi(2)).sum();
    let standard_error = (n >= 2).then(|| (n as f64 / (n as f64 - 1.0) * squares).sqrt() / x);
    Estimate { mean, standard_error, documents: n }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn loss(nats: f64, tokens: u64) -> DocumentLoss {
        DocumentLoss { nats, tokens, bytes: 4 * tokens }
    }

    #[test]
    fn with_equal_lengths_it_is_the_textbook_error_of_a_mean() {
        let losses = [loss(10.0, 10), loss(20.0, 10), loss(30.0, 10), loss(44.0, 10)];
        let per_document = [1.0, 2.0, 3.0, 4.4f64];
        let mean = per_document.iter().sum::<f64>() / 4.0;
        let variance = per_document.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 3.0;
        let estimate = loss_per_token(&losses);
        assert!((estimate.mean - mean).abs() < 1e-12);
        assert!((estimate.standard_error.unwrap() - (variance / 4.0).sqrt()).abs() < 1e-12);
        let per_byte = loss_per_byte(&losses);
        assert!((per_byte.mean - mean / 4.0).abs() < 1e-12);
    }

    #[test]
    fn one_document_has_no_error_and_none_decides_nothing() {
        let one = loss_per_token(&[loss(5.0, 10)]);
        assert_eq!((one.mean, one.standard_error), (0.5, None));
        assert!(!one.distinguishable());
        assert!(loss_per_token(&[]).mean.is_nan());
        assert_eq!(loss_per_token(&[loss(5.0, 10), loss(0.0, 0)]).documents, 1);
    }

    #[test]
    fn pairing_sees_what_the_single_errors_hide() {
        // Documents differ by whole nats per token, the models by a tenth with little noise.
        let b: Vec<DocumentLoss> = (0..40).map(|i| loss(100.0 * (1.0 + f64::from(i % 5)), 100)).collect();
        let a: Vec<DocumentLoss> =
            b.iter().enumerate().map(|(i, l)| loss(l.nats + 10.0 + (i % 3) as f64, 100)).collect();
        let difference = paired_difference(&a, &b).unwrap();
        assert!(difference.distinguishable());
        assert!(difference.mean > 0.1 && difference.mean < 0.13);
        assert!(loss_per_token(&a).standard_error.unwrap() > 2.0 * difference.mean.abs() / 2.0);
        assert!(!paired_difference(&b, &b).unwrap().distinguishable());
    }

    #[test]
    fn noise_cannot_be_told_apart() {
        let b: Vec<DocumentLoss> = (0..40).map(|_| loss(100.0, 100)).collect();
        let a: Vec<DocumentLoss> =
            (0..40).map(|i| loss(if i % 2 == 0 { 104.0 } else { 97.0 }, 100)).collect();
        assert!(!paired_difference(&a, &b).unwrap().distinguishable());
    }

    #[test]
    fn other_documents_are_refused() {
        assert!(paired_difference(&[loss(1.0, 1)], &[]).unwrap_err().to_string().contains("1 against 0"));
        let error = paired_difference(&[loss(1.0, 1), loss(1.0, 2)], &[loss(1.0, 1), loss(1.0, 3)]);
        assert!(error.unwrap_err().to_string().contains("document 1 has 2 against 3 tokens"));
    }

    #[test]
    fn units() {
        let estimate = Estimate { mean: 2.0f64.ln(), standard_error: Some(0.1), documents: 2 };
        assert!((estimate.perplexity().mean - 2.0).abs() < 1e-12);
        assert!((estimate.perplexity().standard_error.unwrap() - 0.2).abs() < 1e-12);
        assert!((estimate.in_bits().mean - 1.0).abs() < 1e-12);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(2), ..ProptestConfig::default() })]

        /// Losses scale: the estimate and its error with them; the order of documents is nothing.
        #[test]
        fn scale_and_order(list in prop::collection::vec((0.1f64..50.0, 1u64..100), 2..30)) {
            let losses: Vec<DocumentLoss> = list.iter().map(|(nats, tokens)| loss(*nats, *tokens)).collect();
            let turned: Vec<DocumentLoss> = losses.iter().rev().map(|l| loss(3.0 * l.nats, l.tokens)).collect();
            let (one, three) = (loss_per_token(&losses), loss_per_token(&turned));
            prop_assert!((three.mean - 3.0 * one.mean).abs() < 1e-9 * three.mean);
            let (one, three) = (one.standard_error.unwrap(), three.standard_error.unwrap());
            prop_assert!((three - 3.0 * one).abs() < 1e-9 * (1.0 + three));
        }
    }
}
