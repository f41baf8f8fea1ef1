//! What becomes of forms that a pass refuses: the best one that none refuses is compiled, those before it are named with
//! the reasons, and the model as it was written is there in any case.

use diptych_codegen::driver::{
    CompiledProgram, Refused, Rewriting, Rewritten, SecondsOfRun, as_written, compile_program_plainly,
    compile_rewritten, rewrite,
};
use diptych_codegen::entry::EntryOptions;
use diptych_ir::{Axis, DType, EntryKind, Initializer, Program, text};
use diptych_models::{ModelBuilder, Tensor};
use diptych_passes::AdamWOptions;
use diptych_passes::algebra::{Form, Numerics, Objective, forms};

const OPTIONS: EntryOptions = EntryOptions::new(16, 48, 2);
const SERVING: [EntryKind; 2] = [EntryKind::Prefill, EntryKind::Decode];
const TRAINING: [EntryKind; 2] = [EntryKind::Train, EntryKind::Update];

/// What no kernel sums: keys and values over all positions of each sequence, into a matrix for it.
const MATRIX_OF_SEQUENCE: &str = "sums over some run-time axes only";

/// Attention that takes scores as they are, without mask or softmax. Then keys may meet values before queries, which
/// takes less time for many queries, and which no kernel does: queries that come first are served and trained.
fn linear_attention(then: impl for<'m> Fn(&'m ModelBuilder, Tensor<'m>) -> Tensor<'m>) -> Program {
    let program = ModelBuilder::new("linear", 2048).finish(|m| {
        let (embed, vocab, depth) = (m.axis("embed", 32), m.axis("vocab", 50), m.axis("depth", 8));
        let table = m.param("embedding", [vocab, embed], Initializer::Uniform { bound: 1.0 }, true);
        let x = table.take(m.tokens(), vocab);
        let query = m.contract(&[x, weight(m, "query", embed, depth)], embed);
        let key = m.contract(&[x, weight(m, "key", embed, depth)], embed).tanh().history();
        let x = x + query.dot(key, depth).dot(x.tanh().history(), m.past());
        m.contract(&[then(m, x), weight(m, "head", embed, vocab)], embed)
    });
    program.unwrap()
}

fn weight<'m>(m: &'m ModelBuilder, name: &str, from: Axis, to: Axis) -> Tensor<'m> {
    m.param(name, [from, to], Initializer::Uniform { bound: 0.1 }, true)
}

/// Some of its forms can be compiled.
fn sound() -> Program {
    linear_attention(|_, x| x)
}

/// No form of it can be served: it looks for the largest of each row that the cache holds.
fn never_served() -> Program {
    linear_attention(|m, x| {
        let (embed, rank) = (m.axis("embed", 32), m.axis("rank", 2));
        let largest = x.tanh().history().top_k(embed, rank).cast(DType::F32).sum(rank);
        let value = largest * m.table(embed, &[0.01; 32]);
        let score = m.index(m.time()).cast(DType::F32) * 0.01 + largest;
        x + score.causal().softmax(m.past()).dot(value, m.past())
    })
}

fn objective(trained: f64, served: f64) -> Objective {
    Objective::typical(200e9, 25e9, trained, served)
}

fn rewriting(objective: &Objective, numerics: Numerics) -> Rewriting<'static> {
    Rewriting { objective: objective.clone(), numerics, ..Rewriting::default() }
}

fn compile(rewritten: &Rewritten, kinds: &[EntryKind]) -> Result<CompiledProgram, String> {
    compile_rewritten(rewritten, kinds, &AdamWOptions::default(), OPTIONS).map_err(|error| error.to_string())
}

/// A form alone, with no other to fall back on.
fn alone(form: &Form, objective: &Objective, kinds: &[EntryKind]) -> Result<CompiledProgram, String> {
    compile(&Rewritten::of_form(form.clone(), Some(objective.clone())), kinds)
}

fn programs(compiled: &CompiledProgram) -> Vec<(EntryKind, String)> {
    compiled.entries.keys().map(|&kind| (kind, text::print(compiled.program_of(kind)))).collect()
}

/// That these forms were refused, in this order, each for the reason that it is refused for when it is alone.
fn assert_refused(found: &[Refused], forms: &[Form], objective: &Objective, kinds: &[EntryKind]) {
    let whole = found.iter().filter(|refused| !refused.backward);
    let told = whole.map(|refused| (refused.keeps.clone(), refused.shared, refused.problem.clone()));
    let expected = (forms.iter())
        .map(|form| (form.keeps.clone(), form.is_shared(), alone(form, objective, kinds).unwrap_err()));
    assert_eq!(told.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    assert!(found.iter().all(|refused| refused.problem.contains(MATRIX_OF_SEQUENCE)), "{found:?}");
}

#[test]
fn the_next_form_is_compiled_where_the_best_is_refused() {
    let (program, objective) = (sound(), objective(1.0, 1.0));
    let forms = forms(&program, &objective, Numerics::Fast).unwrap().forms;
    let rewritten = rewrite(&program, &rewriting(&objective, Numerics::Fast), OPTIONS).unwrap();
    // Nothing is compiled to find this, so nothing is refused yet.
    assert_eq!((rewritten.refused.len(), rewritten.candidates().len()), (0, forms.len() + 1));

    let served = compile(&rewritten, &SERVING).unwrap();
    let next = forms.iter().position(Form::is_shared).unwrap();
    assert!(next > 0);
    assert_refused(&served.refused, &forms[..next], &objective, &SERVING);
    assert_eq!(served.keeps, forms[next].keeps);
    let alone_served = alone(&forms[next], &objective, &SERVING).unwrap();
    assert_eq!(programs(&served), programs(&alone_served));

    // What is refused for some entries is tried for others: there all forms are refused but those that are trained as
    // the model is written.
    let trained = compile(&rewritten, &TRAINING).unwrap();
    let next = forms.iter().position(|form| alone(form, &objective, &TRAINING).is_ok()).unwrap();
    assert!(
        !forms[next].is_shared()
            && forms[next].parts[0].report.regions.iter().all(|region| region.changes.is_empty())
    );
    assert_refused(&trained.refused, &forms[..next], &objective, &TRAINING);
    assert_eq!(trained.keeps, forms[next].keeps);
}

#[test]
fn the_model_as_written_is_left_when_all_else_is_refused() {
    let (program, objective) = (sound(), objective(1.0, 0.0));
    let forms = forms(&program, &objective, Numerics::Same).unwrap().forms;
    let rewritten = rewrite(&program, &rewriting(&objective, Numerics::Same), OPTIONS).unwrap();
    let all = [&TRAINING[..], &SERVING, &[EntryKind::Score]].concat();
    for kinds in [&TRAINING[..], &SERVING, &all] {
        let compiled = compile(&rewritten, kinds).unwrap();
        assert_refused(&compiled.refused, &forms, &objective, kinds);
        assert_eq!(compiled.keeps, ["what the model says"]);
        let plain = compile_program_plainly(&program, kinds, &AdamWOptions::default(), OPTIONS).unwrap();
        assert_eq!(programs(&compiled), programs(&plain), "{kinds:?}");
    }
}

#[test]
fn refused_forms_are_not_compared_once_they_are_fused() {
    let (program, kinds) = (sound(), [EntryKind::Train, EntryKind::Prefill, EntryKind::Decode]);
    // As if all forms took as long: they stay in order, the model as written last.
    let seconds: &SecondsOfRun<'_> = &|_, _| Ok(1.0);
    for (trained, served) in [(0.0, 1.0), (1.0, 1.0)] {
        let objective = objective(trained, served);
        let forms = forms(&program, &objective, Numerics::Fast).unwrap().forms;
        let rewriting = Rewriting { seconds: Some(seconds), ..rewriting(&objective, Numerics::Fast) };
        let rewritten = rewrite(&program, &rewriting, OPTIONS).unwrap();
        // A form is not dropped for what only its backward pass is rewritten to.
        let refused = |form: &&Form| compile(&Rewritten::of_form((*form).clone(), None), &kinds).is_err();
        let (dropped, left): (Vec<_>, Vec<_>) = forms.iter().partition(refused);
        assert!(!dropped.is_empty() && !left.is_empty());
        assert!(rewritten.refused.iter().all(|refused| refused.problem.contains(MATRIX_OF_SEQUENCE)));
        let told = rewritten.refused.iter().map(|refused| (&refused.keeps, refused.shared));
        let expected = dropped.iter().map(|form| (&form.keeps, form.is_shared()));
        assert_eq!(told.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        let written = as_written(&program, &objective).unwrap();
        let left: Vec<_> = left.into_iter().chain([&written]).map(|form| &form.keeps).collect();
        assert_eq!(rewritten.candidates().iter().map(|form| &form.form.keeps).collect::<Vec<_>>(), left);
        assert!(rewritten.candidates().iter().all(|form| form.seconds() == [1.0; 3]));
        // What was compiled to compare it is compiled again, and the report still says what was refused.
        let compiled = compile(&rewritten, &kinds).unwrap();
        assert_eq!((&compiled.keeps, compiled.refused.len()), (left[0], dropped.len()));
    }
}

#[test]
fn where_all_forms_are_refused_the_reason_is_that_of_the_best() {
    let (program, objective) = (never_served(), objective(1.0, 0.0));
    let forms = forms(&program, &objective, Numerics::Same).unwrap().forms;
    let first = alone(&forms[0], &objective, &SERVING).unwrap_err();
    let written = Rewritten::of_form(as_written(&program, &objective).unwrap(), None);
    let last = compile(&written, &SERVING).unwrap_err();
    assert!(
        first.contains(MATRIX_OF_SEQUENCE) && last.contains("not computed row by row"),
        "{first}\n{last}"
    );
    let rewritten = rewrite(&program, &rewriting(&objective, Numerics::Same), OPTIONS).unwrap();
    assert_eq!(compile(&rewritten, &SERVING).unwrap_err(), first);
    // It can still be trained.
    assert_eq!(compile(&rewritten, &TRAINING).unwrap().keeps, ["what the model says"]);

    let seconds: &SecondsOfRun<'_> = &|_, _| Ok(1.0);
    let rewriting = Rewriting { seconds: Some(seconds), ..rewriting(&objective, Numerics::Same) };
    assert_eq!(rewrite(&program, &rewriting, OPTIONS).unwrap_err().to_string(), first);
}
