//! Products with weights in blocks, in native code of every width, against the reference evaluator; and the numbers that
//! blocks hold.

mod in_blocks;

use diptych_codegen::c::prelude::VectorWidth;
use diptych_codegen::driver::compile_program;
use diptych_codegen::entry::Limits;
use diptych_ir::blocks::BlockFormat;
use diptych_ir::evaluate::{Context, Value, evaluate};
use diptych_ir::{Axis, DType, EntryKind, Initializer, Program, Symbol};
use diptych_models::ModelBuilder;
use diptych_passes::AdamWOptions;
use diptych_runtime::device::Cpu;
use diptych_runtime::executor::{Binding, CacheSize, Panels, ParameterError, Sequence, round_to_blocks};
use diptych_runtime::session::{Device, Session};
use in_blocks::{Numbers, held_in, random_blocks, set_random_blocks};
use std::collections::BTreeMap;

const CONTEXT: usize = 192;
const LIMITS: Limits = Limits { rows: CONTEXT, batch: 1 };

/// Rows times a weight that is summed over two axes and has two more, and rows of that weight.
fn program(summed: [usize; 2], columns: [usize; 2]) -> Program {
    let program = ModelBuilder::new("product", CONTEXT).finish(|m| {
        let [a, b] = [("a", summed[0]), ("b", summed[1])].map(|(name, size)| m.axis(name, size));
        let [vocab, c] = [("vocab", columns[0]), ("c", columns[1])].map(|(name, size)| m.axis(name, size));
        let x = m.input("x", DType::F32, [m.batch(), m.time(), a, b]);
        let weight = m.param("w", [vocab, c, a, b], Initializer::Uniform { bound: 0.5 }, true);
        let taken = weight.take(m.tokens(), vocab);
        let sum = m.contract(&[x, weight], [a, b]);
        sum.sum(c) + taken.sum([a, b, c])
    });
    let mut program = program.unwrap();
    let graph = &program.main().graph;
    let of = |name: &str| {
        let fits = |id: &diptych_ir::NodeId| graph.op(*id).name() == name && graph.axes(*id).len() >= 4;
        graph.topological_order().into_iter().find(fits).unwrap()
    };
    let roots = vec![(Symbol::new("sum"), of("contract")), (Symbol::new("taken"), of("take"))];
    program.entries.retain(|entry| entry.kind == EntryKind::Score);
    program.entries[0].roots = roots;
    program.main_mut().results = program.entries[0].roots.iter().map(|root| root.1).collect();
    program
}

/// What rows of the last input give, by the name of the root.
fn run(device: &Device, session: &Session, x: &[f32], tokens: &[i32]) -> BTreeMap<&'static str, Vec<f32>> {
    let mut run = session.executable(device, EntryKind::Score, None, LIMITS).unwrap();
    let mut binding = Binding::cached(LIMITS, CONTEXT, CacheSize::default());
    run.refresh(device, &binding).unwrap();
    binding.bind(&[Sequence { origin: 0, length: tokens.len(), chunks: &[], state: 0 }]).unwrap();
    run.input::<f32>("x").unwrap()[..x.len()].copy_from_slice(x);
    run.input::<i32>("tokens").unwrap()[..tokens.len()].copy_from_slice(tokens);
    run.run(device, &binding).unwrap();
    let root = |name: &'static str| {
        let width = run.root_width(name).unwrap();
        (name, run.root(name).unwrap()[..tokens.len() * width].to_vec())
    };
    ["sum", "taken"].into_iter().map(root).collect()
}

fn devices() -> Vec<(VectorWidth, Device)> {
    let widths = VectorWidth::ALL.into_iter().filter(|width| width.is_supported());
    let of = |width: VectorWidth| Cpu { width, blocking: width.blocking(), ..Cpu::new(Some(2)).unwrap() };
    widths.map(|width| (width, Device::Cpu(of(width)))).collect()
}

#[test]
fn products_with_blocks_are_the_evaluators_in_every_width() {
    let devices = devices();
    for (format, summed, columns) in [
        (BlockFormat::Q8_0, [4, 24], [7, 5]),
        (BlockFormat::Q8_0, [1, 32], [64, 5]),
        (BlockFormat::Q4_0, [5, 32], [67, 1]),
        (BlockFormat::Q4_1, [2, 80], [40, 3]),
        (BlockFormat::Q4K, [8, 64], [9, 4]),
        (BlockFormat::Q6K, [2, 128], [131, 2]),
    ] {
        let program = held_in(&program(summed, columns), format);
        let depth = summed[0] * summed[1];
        let mut numbers = Numbers(11);
        let mut x: Vec<f32> = (0..CONTEXT * depth).map(|_| numbers.signed() * 3.0).collect();
        // A block of zeros, and one of numbers that are as good as zero.
        x[..32].fill(0.0);
        x[depth..depth + 32].fill(1e-32);
        let tokens: Vec<i32> = (0..CONTEXT).map(|_| numbers.below(columns[0] as u64) as i32).collect();
        let mut by_width: Vec<BTreeMap<&str, Vec<f32>>> = Vec::new();
        for (width, device) in &devices {
            let compiled =
                compile_program(&program, &[EntryKind::Score], &AdamWOptions::default(), device.options());
            let mut session = Session::load(device, compiled.unwrap(), CONTEXT).unwrap();
            set_random_blocks(&mut session.store, &program, 0.7);
            let whole = run(device, &session, &x[..40 * depth], &tokens[..40]);
            for rows in [1, 2, 3, 5, 6, 7, 12, 13, 39, 192] {
                let part = run(device, &session, &x[..rows * depth], &tokens[..rows]);
                for (name, part) in &part {
                    let most = part.len().min(whole[name].len());
                    let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    let same = bits(&part[..most]) == bits(&whole[name][..most]);
                    assert!(same, "{format} {summed:?}, {width:?}: {name} of {rows} rows");
                }
            }
            let mut context = Context::default();
            for (name, size) in [("batch", 1), ("time", 40), ("past", 40)] {
                context.sizes.insert(name.into(), size);
            }
            let (batch, time) = ((Symbol::new("batch"), 1), (Symbol::new("time"), 40));
            let axes = [batch, time, (Symbol::new("a"), summed[0]), (Symbol::new("b"), summed[1])];
            let wide = x[..40 * depth].iter().map(|&x| f64::from(x)).collect();
            context.inputs.insert("x".into(), Value::new(&axes, wide).unwrap());
            let ids = tokens[..40].iter().map(|&id| f64::from(id)).collect();
            context.inputs.insert("tokens".into(), Value::new(&axes[..2], ids).unwrap());
            let order = &program.params[&Symbol::new("w")].order;
            let held: Vec<f32> = session.store.get(Symbol::new("w")).unwrap();
            let of_param: Vec<_> = order.iter().map(|axis| (axis.name, axis.fixed_size().unwrap())).collect();
            let held = Value::new(&of_param, held.iter().map(|&x| f64::from(x)).collect()).unwrap();
            context.params.insert("w".into(), held);
            for (name, root) in &program.entries[0].roots {
                let expected = evaluate(&program, &[*root], &context).unwrap().remove(0);
                let fixed = program.main().graph.axes(*root).iter().copied();
                let mut order: Vec<Axis> = ["batch", "time"]
                    .iter()
                    .map(|name| program.main().graph.axes(*root).get(Symbol::new(name)).unwrap())
                    .collect();
                order.extend(
                    session.compiled.layouts.ordered(fixed.filter(|axis| axis.fixed_size().is_some())),
                );
                let expected = expected.in_order(&order);
                let largest = expected.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
                for (at, (&found, expected)) in whole[name.as_str()].iter().zip(&expected).enumerate() {
                    let error = (f64::from(found) - expected).abs();
                    assert!(
                        error <= 2e-6 * largest,
                        "{format} {summed:?}, {width:?}: {name} at {at} is {found}, not {expected}"
                    );
                }
            }
            by_width.push(whole);
        }
        assert!(by_width.windows(2).all(|pair| pair[0] == pair[1]), "{format}: widths differ");
    }
}

#[test]
fn numbers_that_are_not_finite_stay_so() {
    let program = held_in(&program([1, 64], [8, 1]), BlockFormat::Q8_0);
    for (width, device) in devices() {
        let compiled =
            compile_program(&program, &[EntryKind::Score], &AdamWOptions::default(), device.options());
        let mut session = Session::load(&device, compiled.unwrap(), CONTEXT).unwrap();
        set_random_blocks(&mut session.store, &program, 0.7);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1.0; 3 * 64];
            x[64 + 40] = bad;
            let found = run(&device, &session, &x, &[0, 1, 2]);
            let finite: Vec<bool> =
                found["sum"].chunks(8).map(|row| row.iter().all(|x| x.is_finite())).collect();
            assert_eq!(finite, [true, false, true], "{bad} {width:?}");
            assert!(found["sum"][8..16].iter().all(|x| !x.is_finite()));
        }
    }
}

#[test]
fn panels_hold_what_files_hold() {
    let mut numbers = Numbers(3);
    for format in BlockFormat::ALL {
        for panel in VectorWidth::ALL.map(VectorWidth::panel) {
            let panels = Panels { format, depth: 512, panel };
            let mut bytes = vec![0xa5; panels.panel_bytes()];
            let columns: Vec<Vec<u8>> =
                (0..panel).map(|_| random_blocks(format, 512, 1.0, &mut numbers)).collect();
            for (column, blocks) in columns.iter().enumerate() {
                panels.put(&mut bytes, column, blocks);
            }
            let read = diptych_gguf::Format::all()
                .find(|known| known.name().to_lowercase() == format.name())
                .map(|known| known.reader())
                .unwrap();
            for (column, blocks) in columns.iter().enumerate() {
                for row in 0..512 {
                    let (found, expected) = (panels.get(&bytes, column, row), read(blocks, row));
                    assert_eq!(found, expected, "{format}, {panel} columns: column {column}, row {row}");
                }
            }
        }
    }
}

#[test]
fn rounding_to_blocks_loses_little() {
    let mut numbers = Numbers(9);
    let column: Vec<f32> =
        (0..32 * 200).map(|_| (numbers.signed() + numbers.signed() + numbers.signed()) * 0.1).collect();
    let error = |format: BlockFormat| {
        let blocks = round_to_blocks(format, &column).unwrap();
        let panels = Panels { format, depth: column.len(), panel: 8 };
        let mut bytes = vec![0; panels.panel_bytes()];
        panels.put(&mut bytes, 3, &blocks);
        let squares = column.iter().enumerate().map(|(row, x)| (panels.get(&bytes, 3, row) - x).powi(2));
        let size: f32 = column.iter().map(|x| x * x).sum();
        (squares.sum::<f32>() / size).sqrt()
    };
    let (eight, four) = (error(BlockFormat::Q8_0), error(BlockFormat::Q4_1));
    assert!(eight < 0.005, "{eight}");
    // Steps from the least to the largest number, without a search, lose 0.0746.
    assert!(four < 0.07, "{four}");
    let constant = round_to_blocks(BlockFormat::Q4_1, &[0.25; 32]).unwrap();
    let panels = Panels { format: BlockFormat::Q4_1, depth: 32, panel: 8 };
    let mut bytes = vec![0; panels.panel_bytes()];
    panels.put(&mut bytes, 0, &constant);
    assert!((0..32).all(|row| panels.get(&bytes, 0, row) == 0.25));
    assert_eq!(round_to_blocks(BlockFormat::Q8_0, &[f32::NAN; 32]), None);
    assert_eq!(round_to_blocks(BlockFormat::Q4_1, &[f32::INFINITY; 32]), None);
    assert_eq!(round_to_blocks(BlockFormat::Q8_0, &[1e9; 32]), None);
}

#[test]
fn columns_that_a_weight_does_not_have_are_refused() {
    let program = held_in(&program([1, 64], [40, 1]), BlockFormat::Q8_0);
    let device = Device::cpu(Some(1)).unwrap();
    let mut session =
        Session::compile(&device, &program, CONTEXT, &[EntryKind::Score], &AdamWOptions::default()).unwrap();
    let [name, absent] = ["w", "absent"].map(Symbol::new);
    let store = &mut session.store;
    let columns = store.columns(name).unwrap();
    let blocks = random_blocks(BlockFormat::Q8_0, 64, 0.5, &mut Numbers(3));
    store.set_column(name, &columns, 39, &blocks).unwrap();
    let refused = |error: ParameterError| error.to_string();
    let error = refused(store.set_column(name, &columns, 40, &blocks).unwrap_err());
    assert_eq!(error, "parameter `w` has no column 40 of 68 bytes: it has 40, of 68 bytes each");
    let error = refused(store.set_column(name, &columns, 0, &blocks[1..]).unwrap_err());
    assert_eq!(error, "parameter `w` has no column 0 of 67 bytes: it has 40, of 68 bytes each");
    let mut other = columns.clone();
    other.panels.depth = 32;
    let error = refused(store.set_column(name, &other, 0, &blocks[..34]).unwrap_err());
    assert_eq!(error, "parameter `w` has no column 0 of 34 bytes: it has 40, of 68 bytes each");
    assert_eq!(refused(store.set_column(absent, &columns, 0, &blocks).unwrap_err()), "no parameter `absent`");
}
