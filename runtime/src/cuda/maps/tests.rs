use super::*;
use crate::executor::resolve::resolve;
use diptych_codegen::cuda::{Architecture, TensorDim};
use diptych_codegen::driver::compile_program;
use diptych_codegen::entry::EntryOptions;
use diptych_ir::EntryKind;
use diptych_models::{Registry, build};
use diptych_passes::AdamWOptions;
use diptych_passes::layout::Leading;
use std::collections::BTreeSet;

const LIMITS: Limits = Limits { rows: 50, batch: 3 };

/// A training entry with layers and turns of at most 20 rows.
fn entry() -> CompiledEntry {
    let registry = Registry::zoo();
    let preset = registry.preset("llama-tiny").unwrap();
    let mut config = preset.describe();
    config.as_object_mut().unwrap().insert("vocab".into(), 613.into());
    let program = build(&*registry.architecture(preset.name(), &config).unwrap()).unwrap();
    let options = EntryOptions { turn_rows: 20, ..EntryOptions::cuda(Architecture::Sm90a) };
    let compiled = compile_program(&program, &[EntryKind::Train], &AdamWOptions::default(), options);
    compiled.unwrap().entries.remove(&EntryKind::Train).unwrap()
}

fn with_maps(mut entry: CompiledEntry) -> (CompiledEntry, Resolved<()>) {
    for kernel in &mut entry.device_kernels {
        let dim = |extent, stride, box_size| TensorDim { extent, stride, box_size };
        let of = |extent| {
            let dims = vec![dim(TensorExtent::Fixed(8), 1, 8), dim(extent, 8, 4)];
            TensorMap::new(0, DType::F32, 4, dims, Swizzle::None).unwrap()
        };
        kernel.maps = vec![of(TensorExtent::Leading(Leading::Rows)), of(TensorExtent::Room)];
    }
    // Each buffer has a room of its own, of slots 4 KiB apart.
    let base = |buffer: usize| std::ptr::without_provenance_mut::<u8>((buffer + 1) << 32);
    let bases: Vec<*mut u8> = (0..entry.buffers.len()).map(base).collect();
    let resolved = resolve(&entry, &bases, &|_| 4096, &|_| Some(())).unwrap();
    (entry, resolved)
}

#[test]
fn each_launch_has_places_of_its_own_for_layers_and_turns() {
    let (entry, resolved) = with_maps(entry());
    let maps = Maps::placed(&entry, &resolved, LIMITS);
    assert_eq!(maps.by_position.len(), resolved.launches.len());
    let size = RunSize { rows: 50, batch: 3, blocks: 3, past_blocks: 3 };
    let mut seen = BTreeSet::new();
    for launch in &maps.launches {
        assert_eq!(launch.maps.len(), 2);
        for (position, _) in launch.described(size) {
            assert!(seen.insert(position), "{}: two maps at {position}", launch.kernel);
        }
    }
    // The run is the largest, so that all places are used, and there are no others.
    assert_eq!(seen.len() * MAP_BYTES, Maps::bytes(&entry, LIMITS));
    assert_eq!(seen.last(), Some(&(seen.len() - 1)));
    let of = |wanted: fn(&&LaunchMaps) -> bool| maps.launches.iter().filter(wanted).count();
    assert!(of(|launch| launch.place.layers.is_some_and(|layers| layers.0 > 1)) > 10);
    assert!(of(|launch| launch.place.layers.is_some_and(|layers| layers.1)) > 5);
    assert!(of(|launch| launch.place.turn_rows == Some(20)) > 2);
}

#[test]
fn maps_follow_layers_turns_and_sizes() {
    let (entry, resolved) = with_maps(entry());
    let maps = Maps::placed(&entry, &resolved, LIMITS);
    let loaded: Vec<_> =
        launches(&resolved.steps).into_iter().chain(launches(&resolved.load_steps)).collect();
    let (mut moved_by_turn, mut moved_by_layer, mut rooms) = (false, false, 0);
    for rows in [50, 41, 7] {
        let size = RunSize { rows, batch: 3, blocks: 3, past_blocks: 3 };
        for (launch, loaded) in maps.launches.iter().zip(&loaded) {
            let argument = loaded.args[0];
            // 41 rows are 14, 14 and 13.
            let turns: Vec<(usize, usize)> = match (launch.place.turn_rows, rows) {
                (None, _) => vec![(0, rows)],
                (_, 50) => vec![(0, 17), (17, 17), (34, 16)],
                (_, 41) => vec![(0, 14), (14, 14), (28, 13)],
                _ => vec![(0, 7)],
            };
            for (position, described) in launch.described(size) {
                let at = (position - launch.first) / 2;
                let (turn, iteration) = (at / launch.place.iterations(), at % launch.place.iterations());
                let (row, rows) = turns[turn];
                let address = argument.at(iteration, launch.place.layer(iteration), row) as u64 + 16;
                assert_eq!(described.address, address);
                moved_by_turn |= turn > 0 && address != argument.at(0, launch.place.layer(0), 0) as u64 + 16;
                moved_by_layer |= iteration > 0 && turn == 0;
                let room = 4096 - (address - 16) % 4096;
                let of_room = described.map.dims[1].extent == TensorExtent::Room;
                let sizes = vec![8, if of_room { (room / 4 - 4) / 8 } else { rows as u64 }];
                rooms += usize::from(of_room);
                match described.resolved {
                    Ok(resolved) => assert_eq!((resolved.sizes, resolved.strides), (sizes, vec![32])),
                    // Rows of an argument may be shorter than the tensor's: the last turn's end behind the slot.
                    Err(problem) => assert!(room / 4 < 4 + 8 * rows as u64, "{problem}"),
                }
            }
        }
    }
    // Room for rows of the run is as many rows as it has.
    assert!(moved_by_turn && moved_by_layer && rooms > 10);
}
