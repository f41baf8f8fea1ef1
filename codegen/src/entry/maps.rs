//! Tensor maps that a kernel asks for lie in its arguments, whatever launch it is of. This is decided here, where buffers
//! are known, so that no run has to refuse it.

use super::{CompiledEntry, Launch};
use crate::cuda::{CudaError, PIECE_BYTES, TensorExtent, TensorMap};
use diptych_passes::layout::Leading;

/// Checks the maps of all kernels of an entry.
///
/// # Errors
/// A kernel and what one of its launches has that cannot be copied in boxes.
pub(super) fn check(entry: &CompiledEntry) -> Result<(), CudaError> {
    for launch in entry.all_launches() {
        let Some(kernel) = entry.device_kernels.get(launch.kernel) else { continue };
        for map in &kernel.maps {
            check_map(entry, launch, map).map_err(|problem| {
                let arg = entry.programs[launch.kernel].args.get(map.arg);
                let arg = arg.map_or_else(|| map.arg.to_string(), |arg| arg.name.clone());
                let problem = format!("boxes of its argument `{arg}` cannot be copied: {problem}");
                CudaError { kernel: kernel.name.clone(), problem }
            })?;
        }
    }
    Ok(())
}

fn check_map(entry: &CompiledEntry, launch: &Launch, map: &TensorMap) -> Result<(), String> {
    map.check()?;
    let Some(place) = launch.args.get(map.arg) else { return Err("there is no such argument".to_owned()) };
    let buffer = &entry.buffers[place.buffer];
    if buffer.dtype != map.dtype {
        return Err(format!("it is of {}, not {}", buffer.dtype, map.dtype));
    }
    // Layers lie one after the other, and so do rows, at which turns begin.
    let leading = buffer.layout.leading();
    let row_bytes = buffer.layout.row_elements(entry.panel) * buffer.dtype.bytes();
    if !row_bytes.is_multiple_of(PIECE_BYTES) && (buffer.slots > 1 || leading == Leading::Rows) {
        return Err(format!("its rows, or layers, are {row_bytes} bytes long, no multiple of {PIECE_BYTES}"));
    }
    for dim in &map.dims {
        let fits = match dim.extent {
            TensorExtent::Fixed(_) => true,
            TensorExtent::Leading(rows) => rows == leading,
            // Positions so far are rows of the run where none are kept.
            TensorExtent::Room => leading != Leading::None,
        };
        if !fits {
            return Err(format!("its rows are {leading:?}, not {:?}", dim.extent));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{Architecture, Swizzle, TensorDim};
    use crate::driver::compile_program;
    use crate::entry::{Buffer, EntryOptions, Role};
    use diptych_ir::{DType, EntryKind};
    use diptych_models::{Registry, build};
    use diptych_passes::AdamWOptions;

    #[test]
    fn maps_that_no_run_could_have_are_refused() {
        let program = build(&*Registry::zoo().preset("llama-tiny").unwrap()).unwrap();
        let options = EntryOptions::cuda(Architecture::Sm90a);
        let kind = EntryKind::Decode;
        let mut compiled = compile_program(&program, &[kind], &AdamWOptions::default(), options).unwrap();
        let mut entry = compiled.entries.remove(&kind).unwrap();
        let of = |wanted: &dyn Fn(&Buffer) -> bool| {
            let launches = entry.launches().into_iter();
            let mut args = launches.flat_map(|launch| {
                launch.args.iter().enumerate().map(move |(arg, place)| (launch.kernel, arg, place.buffer))
            });
            args.find(|&(.., buffer)| wanted(&entry.buffers[buffer])).expect("such an argument")
        };
        let in_rows = |buffer: &Buffer, wanted: &dyn Fn(usize) -> bool| {
            let row = buffer.layout.row_elements(64);
            buffer.layout.leading() == Leading::Rows && buffer.dtype == DType::F32 && wanted(row)
        };
        let rows = of(&|buffer| in_rows(buffer, &|row| row % 4 == 0));
        let short = of(&|buffer| in_rows(buffer, &|row| row % 4 != 0));
        let cache = of(&|buffer| matches!(buffer.role, Role::Cache { .. }));
        let weight = of(&|buffer| matches!(buffer.role, Role::Stored(_)) && buffer.slots > 1);
        let mut told = |(kernel, arg, buffer): (usize, usize, usize), dtype, extent| {
            let dim = |extent, stride, box_size| TensorDim { extent, stride, box_size };
            let dims = vec![dim(TensorExtent::Fixed(8), 1, 8), dim(extent, 8, 4)];
            let map = TensorMap::new(arg, dtype, 0, dims, Swizzle::None).unwrap();
            let known = entry.buffers[buffer].dtype;
            entry.device_kernels[kernel].maps = vec![map];
            let told = check(&entry).map_err(|error| error.to_string());
            entry.device_kernels[kernel].maps.clear();
            (told, known)
        };
        let (fine, dtype) = told(weight, DType::F32, TensorExtent::Fixed(2));
        assert_eq!((fine, dtype), (Ok(()), DType::F32));
        assert_eq!(told(rows, DType::F32, TensorExtent::Leading(Leading::Rows)).0, Ok(()));
        assert_eq!(told(cache, DType::F32, TensorExtent::Room).0, Ok(()));
        for (problem, found) in [
            ("not bf16", told(rows, DType::BF16, TensorExtent::Leading(Leading::Rows)).0),
            ("no multiple of 16", told(short, DType::F32, TensorExtent::Leading(Leading::Rows)).0),
            ("not Room", told(weight, DType::F32, TensorExtent::Room).0),
            ("not Leading(Batch)", told(rows, DType::F32, TensorExtent::Leading(Leading::Batch)).0),
        ] {
            assert!(found.as_ref().is_err_and(|found| found.contains(problem)), "{problem}: {found:?}");
        }
    }
}
