//! Many forms of one program: those that various objectives and sets of rules would choose. They are what
//! a model of cost is tried on, and what a sweep over objectives chooses from. It knows no kernel.

use super::cost::Objective;
use super::forms::{Form, Numerics, forms_in};
use super::rules::keeping;
use super::space::Space;
use super::{AlgebraError, Part};
use diptych_ir::Program;
use std::collections::HashSet;

/// What a form is chosen for, and with what.
#[derive(Clone, Debug)]
pub struct Variation {
    /// What is to be made small.
    pub objective: Objective,
    /// How far entries may differ.
    pub numerics: Numerics,
    /// Names of rules that are left out.
    pub without: Vec<&'static str>,
}

/// The forms that may be the best for some variation, and the program as it is written, each once. Their seconds are
/// those of `judge`'s bindings, whatever they were chosen for. Variations that leave out the same rules and
/// stand next to each other share one saturation; once there are `enough`, no further one is begun.
///
/// # Errors
/// When an objective lacks a size, or when the program is malformed.
pub fn varied_forms(
    program: &Program,
    judge: &Objective,
    variations: &[Variation],
    enough: usize,
) -> Result<Vec<Form>, AlgebraError> {
    let entries = program.entries.iter().map(|entry| entry.kind).collect();
    let as_written = Part { entries, program: program.clone(), report: Default::default() };
    let mut found = vec![Form { parts: vec![as_written], keeps: Vec::new(), seconds: Vec::new() }];
    let mut known: HashSet<Vec<String>> = found.iter().map(Form::printed).collect();
    for group in variations.chunk_by(|a, b| {
        a.without == b.without
            && a.objective.limits == b.objective.limits
            && a.objective.class == b.objective.class
    }) {
        if found.len() >= enough {
            break;
        }
        let mut rules = keeping(group[0].objective.class);
        rules.retain(|rule| !group[0].without.contains(&rule.name));
        let frozen = vec![Default::default(); program.regions.len()];
        let mut space = Space::saturate(program, &group[0].objective, &rules, frozen, 3.0)?;
        for variation in group {
            space.aim(&variation.objective)?;
            for form in forms_in(&space, variation.numerics)?.forms {
                if known.insert(form.printed()) {
                    found.push(form);
                }
            }
        }
    }
    for form in &mut found {
        form.seconds = additive_seconds(form, judge)?;
    }
    Ok(found)
}

/// Seconds of a run of each binding of an objective in the additive model, of a form as it is.
///
/// # Errors
/// When the objective lacks a size, or when a program is malformed.
pub fn additive_seconds(form: &Form, objective: &Objective) -> Result<Vec<f64>, AlgebraError> {
    let mut seconds = vec![0.0; objective.bindings.len()];
    for part in &form.parts {
        let frozen = vec![Default::default(); part.program.regions.len()];
        let space = Space::saturate(&part.program, objective, &[], frozen, 3.0)?;
        for ((sum, binding), of_part) in
            seconds.iter_mut().zip(&objective.bindings).zip(space.costs_as_written())
        {
            if part.entries.contains(&binding.entry) {
                *sum = of_part;
            }
        }
    }
    Ok(seconds)
}

/// What [`super::forms`] gives for each of several objectives, from one saturation: that of the first.
///
/// # Errors
/// As said there.
pub fn forms_for_each(
    program: &Program,
    objectives: &[Objective],
    numerics: Numerics,
) -> Result<Vec<Vec<Form>>, AlgebraError> {
    let Some(first) = objectives.first() else { return Ok(Vec::new()) };
    let frozen = vec![Default::default(); program.regions.len()];
    let mut space = Space::saturate(program, first, &keeping(first.class), frozen, 3.0)?;
    let mut of_each = Vec::new();
    for objective in objectives {
        space.aim(objective)?;
        of_each.push(forms_in(&space, numerics)?.forms);
    }
    Ok(of_each)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algebra::forms;
    use diptych_ir::text;
    use diptych_models::{Registry, build};

    fn latent() -> Program {
        build(Registry::zoo().preset("mla-tiny").expect("a preset").as_ref()).expect("a program")
    }

    #[test]
    fn the_sum_over_a_form_is_what_extraction_said_of_it() {
        let objective = Objective::typical(2e11, 2.5e10, 1.0, 1.0);
        for form in forms(&latent(), &objective, Numerics::Fast).expect("forms").forms {
            let seconds = additive_seconds(&form, &objective).expect("seconds");
            for (seconds, said) in seconds.iter().zip(&form.seconds) {
                assert!((seconds / said - 1.0).abs() < 1e-6, "{seconds} is not {said}");
            }
        }
    }

    #[test]
    fn one_saturation_serves_every_objective() {
        let program = latent();
        let objectives = [1e-3, 1e3].map(|trained| Objective::typical(2e11, 2.5e10, trained, 1.0));
        let printed = |forms: &[Form]| -> Vec<String> {
            forms.iter().map(|form| text::print(&form.parts[0].program)).collect()
        };
        let together = forms_for_each(&program, &objectives, Numerics::Same).expect("forms");
        for (objective, together) in objectives.iter().zip(together) {
            let alone = forms(&program, objective, Numerics::Same).expect("forms");
            assert_eq!(printed(&together), printed(&alone.forms));
        }
    }

    #[test]
    fn forms_differ_and_are_judged_alike() {
        let program = latent();
        let judge = Objective::typical(2e11, 2.5e10, 1.0, 1.0);
        let vary = |trained, numerics, without: &[&'static str]| Variation {
            objective: Objective::typical(2e11, 2.5e10, trained, 1.0),
            numerics,
            without: without.to_vec(),
        };
        let all: Vec<&'static str> = crate::algebra::RULES.iter().map(|rule| rule.name).collect();
        let none = varied_forms(&program, &judge, &[vary(1.0, Numerics::Same, &all)], 100).expect("forms");
        assert!(none.len() <= 2, "without rules, equal values are united, and nothing else: {}", none.len());
        let variations = [vary(1e-3, Numerics::Fast, &[]), vary(1e3, Numerics::Fast, &[])];
        let some = varied_forms(&program, &judge, &variations, 100).expect("forms");
        let texts: HashSet<Vec<String>> = (some.iter())
            .map(|form| form.parts.iter().map(|part| text::print(&part.program)).collect())
            .collect();
        assert!(some.len() > 2 && texts.len() == some.len(), "{} forms", some.len());
        // What is best for the judge is among them, or they are no choice for a sweep.
        let best = forms(&program, &judge, Numerics::Fast).expect("forms").forms.swap_remove(0);
        let least = some.iter().map(|form| judge.total(&form.seconds)).fold(f64::INFINITY, f64::min);
        assert!(least <= judge.total(&best.seconds) * 1.01);
    }
}
