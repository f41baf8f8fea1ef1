//! Mistakes in a definition: each is told once, in the architecture's terms,
//! with the line of the user's code.

use diptych_ir::{DType, Initializer};
use diptych_models::{Linear, ModelBuilder, Rope, Tensor};

/// The message of a definition that must fail, without its place, and the line.
fn mistake(define: impl FnOnce(&ModelBuilder) -> Tensor<'_>) -> (String, u32) {
    let error = ModelBuilder::new("wrong", 32).finish(define).unwrap_err().to_string();
    let (message, place) = error.rsplit_once(" (at ").unwrap_or_else(|| panic!("no place: {error}"));
    let (file, line) = place.trim_end_matches(')').rsplit_once(':').unwrap();
    assert!(file.ends_with("definition.rs"), "{error}");
    (message.to_owned(), line.parse().unwrap())
}

#[test]
fn mismatched_axes_name_both_and_the_line() {
    let (message, line) = mistake(|m| {
        let (vocab, embed, wider) = (m.axis("vocab", 8), m.axis("embed", 4), m.axis("embed", 6));
        let x = m.embedding("a", vocab, embed).take(m.tokens(), vocab);
        let y = m.embedding("b", vocab, wider).take(m.tokens(), vocab);
        // What is built on the mistake stays silent.
        (x + y).silu().softmax(embed)
    });
    assert_eq!(
        message,
        "add: axis `embed` is embed=4 in one operand and embed=6 in another: \
         [batch, embed=4, time] and [batch, embed=6, time]"
    );
    assert_eq!(line, line!() - 7);
}

#[test]
fn a_linear_map_says_what_its_input_lacks_or_has_already() {
    let (message, line) = mistake(|m| {
        let (vocab, embed, hidden) = (m.axis("vocab", 8), m.axis("embed", 4), m.axis("hidden", 6));
        let x = m.embedding("table", vocab, embed).take(m.tokens(), vocab);
        m.linear("up", x, hidden, embed)
    });
    assert_eq!(message, "linear: `up` works along hidden=6, but its input is f32[batch, embed=4, time]");
    assert_eq!(line, line!() - 3);
    let (message, _) = mistake(|m| {
        let (vocab, embed, hidden) = (m.axis("vocab", 8), m.axis("embed", 4), m.axis("hidden", 6));
        let x = m.embedding("table", vocab, embed).take(m.tokens(), vocab);
        let y = m.linear("up", x, embed, hidden) * x;
        m.linear_with("down", y, hidden, embed, Linear { bias: true, ..Linear::default() })
    });
    assert!(message.starts_with("linear: `down` yields the axis embed=4, but its input"), "{message}");
}

#[test]
fn a_block_must_return_what_it_takes() {
    let (message, line) = mistake(|m| {
        let (vocab, embed, hidden) = (m.axis("vocab", 8), m.axis("embed", 4), m.axis("hidden", 6));
        let x = m.embedding("table", vocab, embed).take(m.tokens(), vocab);
        m.repeat("layers", 2, x, |m, x| m.linear("up", x, embed, hidden))
    });
    assert_eq!(
        message,
        "repeat: value 0 is carried: given as f32[batch, embed=4, time], \
         it cannot come back as f32[batch, hidden=6, time]"
    );
    assert_eq!(line, line!() - 7);
}

#[test]
fn what_is_made_in_a_block_stays_there() {
    let (message, line) = mistake(|m| {
        let (vocab, embed) = (m.axis("vocab", 8), m.axis("embed", 4));
        let x = m.embedding("table", vocab, embed).take(m.tokens(), vocab);
        let mut inner = x;
        let x = m.repeat("layers", 2, x, |_, x| {
            inner = x * 2.0;
            inner
        });
        x + inner
    });
    assert!(message.contains("made in a repeat or scan that has ended"), "{message}");
    assert_eq!(line, line!() - 3);
}

#[test]
fn names_are_given_once() {
    let (message, _) = mistake(|m| {
        let (vocab, embed) = (m.axis("vocab", 8), m.axis("embed", 4));
        let x = m.embedding("table", vocab, embed).take(m.tokens(), vocab);
        m.head("table", x, embed, vocab)
    });
    assert_eq!(message, "param: `table` is declared twice; give each parameter a name of its own");
    let (message, _) = mistake(|m| {
        let (vocab, embed) = (m.axis("vocab", 8), m.axis("embed", 4));
        let x = m.embedding("table", vocab, embed).take(m.tokens(), vocab);
        let x = m.repeat("layers", 2, x, |m, x| m.rms_norm("norm", x, embed, 1e-5));
        m.repeat("layers", 2, x, |m, x| m.rms_norm("other", x, embed, 1e-5))
    });
    assert_eq!(message, "repeat: there is a repeat called `layers` already");
}

#[test]
fn masks_and_rotations_say_what_they_need() {
    let (message, _) = mistake(|m| {
        let (vocab, embed) = (m.axis("vocab", 8), m.axis("embed", 4));
        m.embedding("table", vocab, embed).take(m.tokens(), vocab).causal()
    });
    assert_eq!(message, "causal: masks scores over time and past, but was given f32[batch, embed=4, time]");
    let (message, _) = mistake(|m| {
        let (vocab, odd) = (m.axis("vocab", 8), m.axis("head_dim", 5));
        let rope = m.rotary_table(odd, &Rope { theta: 10000.0, scaling: Default::default() });
        m.embedding("table", vocab, odd).take(m.tokens(), vocab).rotary(odd, &rope)
    });
    assert!(message.contains("its axis must have an even size, not head_dim=5"), "{message}");
    let (message, _) = mistake(|m| {
        let (vocab, embed) = (m.axis("vocab", 8), m.axis("embed", 4));
        m.embedding("table", vocab, embed)
            .take(m.tokens(), vocab)
            .split(embed, [m.axis("third", 3), m.axis("rest", 2)])
    });
    assert!(message.contains("the sizes must be fixed and multiply to it"), "{message}");
}

#[test]
fn a_model_returns_logits_and_uses_its_parameters() {
    let finish = |define: fn(&ModelBuilder) -> Tensor<'_>| {
        ModelBuilder::new("wrong", 32).finish(define).unwrap_err().to_string()
    };
    let no_logits = finish(|m| m.tokens());
    assert_eq!(
        no_logits,
        "finish: a model returns logits f32[batch, time, vocabulary], not i32[batch, time]"
    );
    let unused = finish(|m| {
        let (vocab, embed) = (m.axis("vocab", 8), m.axis("embed", 4));
        let table = m.embedding("table", vocab, embed);
        m.param("forgotten", embed, Initializer::Constant(0.0), false);
        m.tied_head(table.take(m.tokens(), vocab), table, embed)
    });
    assert_eq!(unused, "param: `forgotten` is declared, but no entry depends on it");
    let (idle, line) = mistake(|m| {
        let (vocab, embed) = (m.axis("vocab", 8), m.axis("embed", 4));
        let table = m.embedding("table", vocab, embed);
        let x = m.repeat("layers", 2, table.take(m.tokens(), vocab), |m, x| {
            m.param("forgotten", embed, Initializer::Constant(0.0), false);
            x * 2.0
        });
        m.tied_head(x, table, embed)
    });
    assert_eq!(idle, "param: `layers.forgotten` is declared, but its block does not use it");
    assert_eq!(line, line!() - 6);
    let (integers, _) = mistake(|m| {
        m.compute_in(DType::I32);
        m.tokens()
    });
    assert_eq!(integers, "compute_in: models compute in f32 or bf16, not i32");
}

#[test]
fn a_recurrence_carries_what_it_takes() {
    fn input(m: &ModelBuilder) -> (Tensor<'_>, diptych_ir::Axis) {
        let (vocab, embed) = (m.axis("vocab", 8), m.axis("embed", 4));
        (m.embedding("table", vocab, embed).take(m.tokens(), vocab), embed)
    }
    let (message, line) = mistake(|m| {
        let (x, embed) = input(m);
        let start = m.zeros([m.batch(), embed]);
        let [y] = m.scan("state", [start], |_, [state]| ([(state + x).sum(embed)], [state]));
        y
    });
    assert_eq!(
        message,
        "scan: value 0 is carried: given as f32[batch, embed=4], it cannot come back as f32[batch]"
    );
    assert_eq!(line, line!() - 7);
    let (message, line) = mistake(|m| {
        let (x, _) = input(m);
        let [y] = m.scan("state", [x], |_, [state]| ([state], [state]));
        y
    });
    assert!(message.contains("`state` starts from f32[batch, embed=4, time]"), "{message}");
    assert_eq!(line, line!() - 4);
    let (message, line) = mistake(|m| {
        let (x, embed) = input(m);
        let [y] = m.scan("state", [m.zeros([m.batch(), embed])], |m, [state]| {
            let weight = m.param("weight", embed, Initializer::Constant(1.0), false);
            ([state * weight + x], [state])
        });
        y
    });
    assert_eq!(message, "param: `weight` is declared in the step of a scan; declare it around the scan");
    assert_eq!(line, line!() - 6);
    let (message, _) = mistake(|m| {
        let (x, embed) = input(m);
        let mut inner = x;
        let [y] = m.scan("state", [m.zeros([m.batch(), embed])], |_, [state]| {
            inner = state + x;
            ([inner], [state])
        });
        y + inner
    });
    assert!(message.contains("made in a repeat or scan that has ended"), "{message}");
}

#[test]
fn what_is_added_to_the_loss_is_one_number() {
    fn input(m: &ModelBuilder) -> (Tensor<'_>, diptych_ir::Axis, diptych_ir::Axis) {
        let (vocab, embed) = (m.axis("vocab", 8), m.axis("embed", 4));
        (m.embedding("table", vocab, embed).take(m.tokens(), vocab), embed, vocab)
    }
    let (message, line) = mistake(|m| {
        let (x, embed, vocab) = input(m);
        m.add_to_loss("length", (x * x).sum([m.time(), embed]));
        m.head("head", x, embed, vocab)
    });
    assert_eq!(
        message,
        "add_to_loss: `length` is f32[batch]; what is added to the loss is one number, f32[]: sum it over its axes"
    );
    assert_eq!(line, line!() - 7);
    let (message, _) = mistake(|m| {
        let (x, embed, vocab) = input(m);
        let x = m.repeat("layers", 2, x, |m, x| {
            m.add_to_loss("one", m.number(DType::I32, 1.0));
            x * 2.0
        });
        m.head("head", x, embed, vocab)
    });
    assert_eq!(message, "add_to_loss: `layers.one` is i32[]; what is added to the loss is f32[]: cast it");
    let (message, _) = mistake(|m| {
        let (x, embed, vocab) = input(m);
        let all = [m.batch(), m.time(), embed];
        m.add_to_loss("length", (x * x).sum(all));
        m.add_to_loss("length", x.sum(all));
        m.head("head", x, embed, vocab)
    });
    assert_eq!(message, "add_to_loss: `length` is added twice; give each part of the loss a name of its own");
    let (message, _) = mistake(|m| {
        let (x, embed, vocab) = input(m);
        let scale = m.param("scale", embed, diptych_ir::Initializer::Constant(1.0), false);
        m.add_to_loss("decay", (scale * scale).sum(embed));
        m.head("head", x * scale, embed, vocab)
    });
    assert!(
        message.starts_with("add_to_loss: `decay` depends on no token, so it would count once"),
        "{message}"
    );
    let (message, _) = mistake(|m| {
        let (x, embed, vocab) = input(m);
        let [y] = m.scan("state", [m.zeros([m.batch(), embed])], |m, [state]| {
            m.add_to_loss("state", m.number(DType::F32, 1.0));
            ([state + x], [state])
        });
        m.head("head", y, embed, vocab)
    });
    assert!(message.starts_with("add_to_loss: `state` is added in the step of a scan; let"), "{message}");
    let (message, _) = mistake(|m| {
        let (x, embed, vocab) = input(m);
        let mut inner = x;
        let y = m.repeat("layers", 2, x, |_, x| {
            inner = x * 2.0;
            inner
        });
        m.add_to_loss("inner", inner.sum([m.batch(), m.time(), embed]));
        m.head("head", y, embed, vocab)
    });
    assert!(message.contains("made in a repeat or scan that has ended"), "{message}");
    let (message, _) = mistake(|m| {
        let (x, embed, vocab) = input(m);
        m.head(
            "head",
            m.sum_over_positions("sum", [m.head("other", x, embed, vocab).sum(m.batch())])[0],
            vocab,
            embed,
        )
    });
    assert_eq!(
        message,
        "sum_over_positions: `sum` sums along the time of each sequence, but was given f32[time, vocab=8]"
    );
    let (message, _) = mistake(|m| {
        let (x, embed, vocab) = input(m);
        let bias = m.sign_descent_param("bias", embed, Initializer::Constant(0.0), -0.1);
        m.head("head", x + bias, embed, vocab)
    });
    assert_eq!(message, "sign_descent_param: `bias` is to change by -0.1 at a step; give a positive number");
}
