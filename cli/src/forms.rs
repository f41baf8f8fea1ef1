//! The forms that a program can take, for people to read: what each costs in
//! each entry, what entries give up for one another, and what each decision saves. It chooses nothing.

use crate::failure::Result;
use crate::format::{push, seconds};
use crate::objective::ObjectiveConfig;
use diptych_codegen::driver::{Candidate, Refused, Rewritten};
use diptych_ir::Program;
use diptych_passes::algebra::{Binding, Objective, Stage, account, rule_gains};

/// Seconds of a token of a binding, given those of a run.
fn per_token(binding: &Binding, run: f64) -> f64 {
    run * binding.runs() / binding.tokens.max(f64::MIN_POSITIVE)
}

/// What caches keep, for people to read.
fn kept(keeps: &[String]) -> String {
    if keeps.is_empty() { "nothing".to_owned() } else { keeps.join(" and ") }
}

/// The forms that were compared, with the one that was chosen and those that were dropped, then or `later`, and what one
/// form for all entries costs.
pub fn compared_text(
    config: &ObjectiveConfig,
    objective: &Objective,
    compared: &Rewritten,
    later: &[Refused],
) -> String {
    let forms = compared.candidates();
    let mut out = format!(
        "\nWhat it is compiled for: {} tokens trained to {} served, half of them of prompts of {}; decoding {} at once \
         at {} positions\nForms, by the predicted time of a token on {}\n",
        config.train_tokens,
        config.serve_tokens,
        config.prompt,
        config.serve_batch,
        config.serve_context,
        config.machine
    );
    let names = objective.bindings.iter().map(|binding| format!("{:>12}", binding.entry.name()));
    push(&mut out, format_args!("  {:4}{}  all, to the best\n", "", names.collect::<String>()));
    let total = |form: &Candidate| objective.total(form.seconds());
    let least = forms.iter().map(total).fold(f64::INFINITY, f64::min);
    for (number, form) in forms.iter().enumerate() {
        let costs = objective.bindings.iter().zip(form.seconds());
        let costs: String =
            costs.map(|(binding, &run)| format!("{:>12}", seconds(per_token(binding, run)))).collect();
        let kind = if form.is_shared() { "one for all entries" } else { "one for each" };
        let keeps = kept(form.keeps());
        push(
            &mut out,
            format_args!(
                "  {:<4}{costs}  {:>6.3}  {kind}; caches keep {keeps}\n",
                number + 1,
                total(form) / least
            ),
        );
    }
    for form in compared.refused.iter().chain(later) {
        let kind = if form.shared { "One for all entries" } else { "One for each" };
        let (keeps, problem) = (kept(&form.keeps), &form.problem);
        let what = if form.backward { "has its backward pass as it comes out" } else { "was dropped" };
        push(&mut out, format_args!("{kind}, where caches keep {keeps}, {what}: {problem}\n"));
    }
    let shared = forms.iter().enumerate().filter(|(_, form)| form.is_shared());
    let Some((number, best)) = shared.clone().min_by(|a, b| total(a.1).total_cmp(&total(b.1))) else {
        return out;
    };
    push(
        &mut out,
        format_args!(
            "Of those with the same bits in all entries form {} costs least; equal bits cost {:.1}% of the time of all\n",
            number + 1,
            100.0 * (total(best) / least - 1.0)
        ),
    );
    for (index, binding) in objective.bindings.iter().enumerate().filter(|(_, binding)| binding.tokens > 0.0)
    {
        let own = |form: &Candidate| form.seconds()[index];
        if let Some((other, alone)) = shared.clone().min_by(|a, b| own(a.1).total_cmp(&own(b.1)))
            && own(alone) < own(best) * (1.0 - 1e-3)
        {
            let gives_up = 100.0 * (own(best) / own(alone) - 1.0);
            let name = binding.entry.name();
            push(
                &mut out,
                format_args!("{name} alone would take form {}: it gives up {gives_up:.1}%\n", other + 1),
            );
        }
    }
    out
}

/// What the best form for all entries is made of, and with `rules` what each rule brings.
///
/// # Errors
/// When the program is malformed.
pub fn account_text(program: &Program, objective: &Objective, rules: bool) -> Result<String> {
    let found = account(program, objective)?;
    let mut out = format!(
        "\nBefore fusion, one form for all entries: {:.2}% of the time as written; at most {:.2}% above the best there is\n",
        100.0 * found.cost / found.before,
        100.0 * (found.cost / found.lower_bound - 1.0)
    );
    for saving in &found.savings {
        push(&mut out, format_args!("  {}\n", saving.what));
        for (binding, &run) in objective.bindings.iter().zip(&saving.seconds).filter(|(_, run)| **run != 0.0)
        {
            let does = if run > 0.0 { "saves" } else { "costs" };
            let token = seconds(per_token(binding, run.abs()));
            push(&mut out, format_args!("    {does} {token} a token of {}\n", binding.entry.name()));
        }
    }
    if rules {
        out.push_str(
            "Rules, how often each brought something new, and how much dearer the best form is without it\n",
        );
        for gain in rule_gains(program, objective, Stage::Forward)? {
            push(
                &mut out,
                format_args!("  {:<36}{:>6}{:>10.3}%\n", gain.rule, gain.fired, 100.0 * gain.gain),
            );
        }
    }
    Ok(out)
}
