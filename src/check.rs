//! Native code against the reference evaluator, for a model of one's own: the
//! same numbers go through both. It knows no architecture.

pub use diptych_cli::check::{CheckError, Differences, check, reference_context, relative_errors};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelBuilder;
    use crate::guide::stack;
    use diptych_ir::evaluate::Value;
    use diptych_ir::{Program, Symbol};

    fn model() -> Program {
        stack(1, |m, h, embed| {
            m.linear("down", h.tanh(), embed, m.axis("other", 16)).rename(m.axis("other", 16), embed)
        })
        .unwrap()
    }

    #[test]
    fn f32_is_near_f64_and_not_the_same() {
        let program = model();
        let context = reference_context(&program, &[&[1, 2, 3], &[4, 5, 6]], 1).unwrap();
        let Differences { score, serving, gradients } = check(&program, &context).unwrap();
        for difference in [score, serving, gradients] {
            assert!(0.0 < difference && difference < 1e-5, "{difference}");
        }
    }

    #[test]
    fn attention_is_served_outside_of_repeats() {
        let program = ModelBuilder::new("flat", 64).finish(|m| {
            let (vocab, embed) = (m.axis("vocab", 32), m.axis("embed", 16));
            let (head, head_dim) = (m.axis("head", 2), m.axis("head_dim", 8));
            let x = m.embedding("embedding", vocab, embed).take(m.tokens(), vocab);
            let [q, k, v] = ["q", "k", "v"].map(|name| m.linear(name, x, embed, [head, head_dim]));
            let seen = (q.dot(k.history(), head_dim) * 0.35).causal().softmax(m.past());
            let x = x + m.linear("o", seen.dot(v.history(), m.past()), [head, head_dim], embed);
            m.head("head", x, embed, vocab)
        });
        let program = program.unwrap();
        let context = reference_context(&program, &[&[1, 2, 3, 4, 5], &[6, 7, 8, 9, 10]], 1).unwrap();
        let Differences { score, serving, gradients } = check(&program, &context).unwrap();
        assert!(score.max(serving).max(gradients) < 1e-5, "{score} {serving} {gradients}");
    }

    #[test]
    fn two_expansions_one_in_the_other_are_right_or_refused() {
        // Both widths are formed block by block; the backward pass needs the sum over the wider one within the other.
        let program = ModelBuilder::new("factored", 64).finish(|m| {
            let (vocab, embed, wide) = (m.axis("vocab", 17), m.axis("embed", 2), m.axis("wide", 16));
            let (out, one) = (m.axis("out", 300), m.axis("one", 1));
            let x = m.embedding("embedding", vocab, embed).take(m.tokens(), vocab);
            let x = m.linear("up", m.layer_norm("norm", x, embed, 0.1), embed, wide);
            let z = m.embedding("other", vocab, one).take(m.tokens(), vocab);
            m.linear("down", (x + m.linear("beside", z, one, wide)) * 0.5, wide, out)
        });
        let program = program.unwrap();
        let context = reference_context(&program, &[&[1, 2, 3, 4], &[5, 6, 7, 8]], 1).unwrap();
        match check(&program, &context) {
            Ok(found) => assert!(found.gradients < 1e-4, "{found:?}"),
            Err(error) => assert!(error.to_string().contains("reads that sum"), "{error}"),
        }
    }

    #[test]
    fn misfits_are_refused() {
        let program = model();
        let refused = |texts: &[&[i32]]| reference_context(&program, texts, 1).unwrap_err().to_string();
        assert!(
            refused(&[]).contains("their lengths are []; give at least one, all of one length from 2 on")
        );
        assert!(refused(&[&[1, 2], &[1, 2, 3]]).contains("their lengths are [2, 3]"));
        let good = reference_context(&program, &[&[1, 2, 3]], 1).unwrap();

        let mut context = good.clone();
        context.params.remove(&Symbol::new("layers.down"));
        let message = check(&program, &context).unwrap_err().to_string();
        assert!(message.contains("the parameter `layers.down` has no numbers over ["), "{message}");

        let mut context = good.clone();
        context.inputs.insert(Symbol::new("targets"), Value::scalar(1.0));
        let message = check(&program, &context).unwrap_err().to_string();
        assert!(message.contains("3 tokens and 1 targets of 1 texts"), "{message}");

        let context = reference_context(&program, &[&[1, 2, 77]], 1).unwrap();
        let message = check(&program, &context).unwrap_err().to_string();
        assert!(message.contains("77"), "{message}");
    }
}
