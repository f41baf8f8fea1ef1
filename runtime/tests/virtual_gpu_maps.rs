//! Tensor maps as kernels get them, on the virtual GPU: kernels of a tiny Llama are given maps of what they read, copy boxes
//! by them, and compare each element with what lies there. What they compute is as before. So each launch has maps of its
//! own argument, layer and turn, of the size of the run, also where a captured graph is replayed.

use diptych_codegen::cuda::{KernelText, Swizzle, TensorDim, TensorExtent, TensorMap};
use diptych_codegen::driver::{CompiledProgram, compile_program};
use diptych_codegen::entry::{ArgRef, CompiledEntry, EntryOptions, Launch, Limits, PlanStep, Role};
use diptych_ir::{DType, EntryKind, Program};
use diptych_models::{Registry, build, initialize};
use diptych_nvrtc::Target;
use diptych_passes::AdamWOptions;
use diptych_passes::layout::Leading;
use diptych_runtime::cuda::CudaError;
use diptych_runtime::decode::{ServeOptions, Server, Window};
use diptych_runtime::device::DeviceName;
use diptych_runtime::executor::{Binding, CacheSize, Sequence};
use diptych_runtime::session::{Device, Session, SessionError};
use serde_json::json;

const CONTEXT: usize = 192;
/// Rows of a box.
const ROWS: usize = 16;
/// Rows of each cache of the server.
const CACHE_ROWS: usize = 64 * 8;

/// Copies a box at the end of a tensor, as long as `rows` says, and stops the kernel where an element is another.
const COMPARE: &str = r#"
template <class T>
static __device__ void compare_box(const tensor_map *map, const T *tensor, int columns, int stride, int rows) {
    __shared__ __align__(1024) unsigned char box[16 * 128];
    __shared__ __align__(8) unsigned long long landed;
    unsigned to = (unsigned)__cvta_generic_to_shared(box), barrier = (unsigned)__cvta_generic_to_shared(&landed);
    int first = rows - 3;
    acquire_map(map);
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"((int)(16 * columns * sizeof(T)))
                 : "memory");
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
                     "r"(to), "l"(map), "r"(0), "r"(first), "r"(barrier) : "memory");
    asm volatile("{\n.reg .pred done;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], 0;\n@!done bra WAIT;\n}" ::
                     "r"(barrier) : "memory");
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < columns; column++) {
            int bytes = row * columns * (int)sizeof(T) + column * (int)sizeof(T);
            const unsigned char *at = box + (SWIZZLED ? bytes ^ (bytes >> 7 & 7) << 4 : bytes);
            bool inside = first + row >= 0 && first + row < rows;
            unsigned want = 0, found = 0;
            if (sizeof(T) == 2) {
                found = *(const unsigned short *)at;
                if (inside) want = *(const unsigned short *)(tensor + (long long)(first + row) * stride + column);
            } else {
                found = *(const unsigned *)at;
                if (inside) want = *(const unsigned *)(tensor + (long long)(first + row) * stride + column);
            }
            if (found != want) __trap();
        }
    asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
"#;

fn launches(steps: &[PlanStep]) -> Vec<&Launch> {
    let mut found = Vec::new();
    for step in steps {
        match step {
            PlanStep::Launch(launch) => found.push(launch),
            PlanStep::Together(launches) => found.extend(launches),
            PlanStep::Repeat { body, .. } | PlanStep::Turns { body, .. } => found.extend(launches(body)),
            PlanStep::Copy { .. } => {}
        }
    }
    found
}

/// The map of an argument that a kernel only reads, and its rows as the kernel knows them.
fn map_of(entry: &CompiledEntry, arg: usize, place: ArgRef) -> Option<(TensorMap, String)> {
    let buffer = &entry.buffers[place.buffer];
    let bytes = buffer.dtype.bytes();
    let row = buffer.layout.row_elements(entry.panel);
    let (extent, rows, stride) = match (&buffer.role, buffer.layout.leading()) {
        (Role::Cache { .. }, _) => (TensorExtent::Room, CACHE_ROWS.to_string(), row),
        (_, Leading::Rows) => (TensorExtent::Leading(Leading::Rows), "step.rows".to_owned(), row),
        (_, Leading::Batch) => (TensorExtent::Leading(Leading::Batch), "step.batch".to_owned(), row),
        (Role::Stored(_), Leading::None) => (TensorExtent::Fixed(row / 16), (row / 16).to_string(), 16),
        _ => return None,
    };
    if !matches!(buffer.dtype, DType::F32 | DType::BF16) || stride < 16 {
        return None;
    }
    // As many columns as a swizzled row has, or else fewer.
    let columns =
        [128, 64, 32, 16].into_iter().map(|width| width / bytes).find(|&columns| columns <= stride)?;
    let swizzle = if columns * bytes == 128 { Swizzle::Bytes128 } else { Swizzle::None };
    let dims = vec![
        TensorDim { extent: TensorExtent::Fixed(columns), stride: 1, box_size: columns },
        TensorDim { extent, stride, box_size: ROWS },
    ];
    Some((TensorMap::new(arg, buffer.dtype, 0, dims, swizzle).ok()?, rows))
}

/// Gives kernels maps of what they read, and has them compared. Returns how many kernels have one, and for which extents.
fn give_maps(compiled: &mut CompiledProgram, kinds: &[EntryKind]) -> Vec<TensorExtent> {
    let mut given = Vec::new();
    for kind in kinds {
        let entry = compiled.entries.get_mut(kind).unwrap();
        let mut found: Vec<Vec<(TensorMap, String)>> = Vec::new();
        for kernel in 0..entry.device_kernels.len() {
            let all = launches(&entry.steps).into_iter().chain(launches(&entry.load_steps));
            let launches: Vec<&Launch> = all.filter(|launch| launch.kernel == kernel).collect();
            let args = &entry.programs[kernel].args;
            let maps = (0..args.len()).filter(|&arg| !args[arg].written).filter_map(|arg| {
                // What other blocks may be writing meanwhile cannot be compared.
                let alone = |launch: &&Launch| {
                    let written = launch.args.iter().zip(args).filter(|(_, arg)| arg.written);
                    !written.into_iter().any(|(place, _)| place.buffer == launch.args[arg].buffer)
                };
                let all: Vec<_> =
                    launches.iter().map(|launch| map_of(entry, arg, launch.args[arg])).collect();
                let alike = all.iter().all(|map| *map == all[0]) && launches.iter().all(alone);
                all.into_iter().next().flatten().filter(|_| alike)
            });
            found.push(maps.collect());
        }
        for (kernel, maps) in entry.device_kernels.iter_mut().zip(found) {
            spoil(kernel, &maps, &mut given);
        }
    }
    given
}

fn spoil(kernel: &mut KernelText, maps: &[(TensorMap, String)], given: &mut Vec<TensorExtent>) {
    if maps.is_empty() {
        return;
    }
    let mut calls = String::new();
    let names: Vec<String> = {
        let start = kernel.text.find("long long flat, ").unwrap() + "long long flat, ".len();
        let end = start + kernel.text[start..].find(')').unwrap();
        let parameters = kernel.text[start..end].split(", ");
        let parameters = parameters.filter(|parameter| *parameter != "const tensor_map *maps");
        parameters.map(|parameter| parameter.rsplit('*').next().unwrap().to_owned()).collect()
    };
    // A kernel may have maps of its own, and these come behind.
    let own = kernel.maps.len();
    for (at, (map, rows)) in maps.iter().enumerate() {
        let at = own + at;
        let (name, columns, stride) = (&names[map.arg], map.dims[0].box_size, map.dims[1].stride);
        let swizzled = map.swizzle != Swizzle::None;
        calls.push_str(&format!(
            "    if (blockIdx.x == 0 && threadIdx.x == 0) {}_{swizzled}(maps + {at}, {name}, {columns}, {stride}, {rows});\n",
            kernel.name
        ));
        given.push(map.dims[1].extent);
    }
    let tables = "    const step_tables step = *tables;\n";
    assert!(kernel.text.contains(tables));
    kernel.text = kernel.text.replace(tables, &format!("{tables}{calls}"));
    if own == 0 {
        kernel.text = kernel.text.replace("long long flat, ", "long long flat, const tensor_map *maps, ");
    }
    let of = |swizzled: bool| {
        let text = COMPARE.replace("compare_box", &format!("{}_{swizzled}", kernel.name));
        text.replace("SWIZZLED", if swizzled { "true" } else { "false" })
    };
    kernel.text = format!("{}{}{}", of(true), of(false), kernel.text);
    kernel.maps.extend(maps.iter().map(|map| map.0.clone()));
}

fn session(device: &Device, compiled: CompiledProgram, program: &Program) -> Session {
    let mut session = Session::load(device, compiled, CONTEXT).unwrap();
    for name in program.params.keys() {
        session.store.set(*name, &initialize(program, name.as_str(), 3).unwrap()).unwrap();
    }
    session.store.upload().unwrap();
    session
}

fn tokens(length: usize, stride: usize) -> Vec<i32> {
    (0..length).map(|at| (at * stride % 97) as i32).collect()
}

/// Bits of log-probabilities and logits: launched, captured, replayed, and with other sizes of the same bucket.
fn served(device: &Device, session: &Session) -> Vec<u32> {
    let room = ServeOptions { rows: 80, batch: 2, sequences: 3, cache_positions: CACHE_ROWS };
    let mut server = Server::new(device, session, room).unwrap();
    let mut found = Vec::new();
    for length in [37, 37, 37, 36, 38] {
        let text = tokens(length, 17);
        let mut scores = Vec::new();
        server.score(&[Window { tokens: &text, targets: &text }], &mut scores).unwrap();
        found.extend(scores);
        let [a, b] = [(), ()].map(|()| server.start().unwrap());
        found.extend_from_slice(server.prefill(&[(a, &text), (b, &text[..20])]).unwrap());
        found.extend_from_slice(server.decode(&[(a, 5), (b, 7)]).unwrap());
        found.extend_from_slice(server.decode(&[(b, 11)]).unwrap());
        server.release(a);
        server.release(b);
    }
    found.into_iter().map(f32::to_bits).collect()
}

/// The bits of micro-batches' log-probabilities and of gradients, with rows walked in turns.
fn trained(device: &Device, session: &Session) -> Vec<u32> {
    let limits = Limits { rows: 64, batch: 2 };
    let mut run = session.executable(device, EntryKind::Train, None, limits).unwrap();
    let entry = &session.compiled.entries[&EntryKind::Train];
    let has_maps = entry.device_kernels.iter().any(|kernel| !kernel.maps.is_empty());
    assert_eq!(device.memory_bound(entry, limits, CacheSize::default()).maps > 0, has_maps);
    let mut found = Vec::new();
    for lengths in [[30, 23], [30, 23], [30, 23], [31, 21]] {
        let rows: usize = lengths.iter().sum();
        let mut binding = Binding::new(limits, CONTEXT);
        binding.bind(&lengths.map(|length| Sequence { origin: 0, length, chunks: &[], state: 0 })).unwrap();
        run.input::<i32>("tokens").unwrap()[..rows].copy_from_slice(&tokens(rows, 31));
        run.input::<i32>("targets").unwrap()[..rows].copy_from_slice(&tokens(rows, 17));
        run.input::<f32>("inverse_tokens").unwrap()[0] = 1.0 / rows as f32;
        run.run(device, &binding).unwrap();
        found.extend(run.root("log_prob").unwrap()[..rows].iter().map(|x| x.to_bits()));
    }
    for name in session.store.names().filter(|name| name.as_str().starts_with("gradient")) {
        found.extend(session.store.get(name).unwrap().iter().map(|x| x.to_bits()));
    }
    found
}

#[test]
fn kernels_find_what_their_maps_say() {
    let gpu = match Device::open(DeviceName::Virtual(Target::SM_90A), None) {
        Ok(gpu) => gpu,
        Err(SessionError::Cuda(error @ CudaError::Nvrtc(_)))
            if std::env::var_os("DIPTYCH_CUDA").is_none() =>
        {
            return println!("skipped: {error}");
        }
        Err(error) => panic!("{error}"),
    };
    let registry = Registry::zoo();
    let preset = registry.preset("llama-tiny").unwrap();
    let mut config = preset.describe();
    // Many more columns than what is summed, so that logits are streamed; rows of caches are whole pieces of 16 bytes.
    let change = json!({ "dtype": "bf16", "context": CONTEXT, "vocab": 613, "head_dim": 16 });
    config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let program = build(&*registry.architecture(preset.name(), &config).unwrap()).unwrap();
    let options = EntryOptions { turn_rows: 20, ..gpu.options() };
    let compiled =
        |kinds: &[EntryKind]| compile_program(&program, kinds, &AdamWOptions::default(), options).unwrap();

    let kinds = [EntryKind::Score, EntryKind::Prefill, EntryKind::Decode];
    let plain = served(&gpu, &session(&gpu, compiled(&kinds), &program));
    let mut checked = compiled(&kinds);
    let given = give_maps(&mut checked, &kinds);
    let of = |wanted: fn(&&TensorExtent) -> bool| given.iter().filter(wanted).count();
    assert!(of(|extent| **extent == TensorExtent::Room) >= 4, "{given:?}");
    assert!(of(|extent| matches!(extent, TensorExtent::Leading(Leading::Rows))) >= 10, "{given:?}");
    assert!(of(|extent| matches!(extent, TensorExtent::Fixed(_))) >= 10, "{given:?}");
    assert!(served(&gpu, &session(&gpu, checked, &program)) == plain, "maps change bits");

    let plain = trained(&gpu, &session(&gpu, compiled(&[EntryKind::Train]), &program));
    let mut checked = compiled(&[EntryKind::Train]);
    give_maps(&mut checked, &[EntryKind::Train]);
    assert!(trained(&gpu, &session(&gpu, checked, &program)) == plain, "maps change bits");

    // Without memory for graphs, runs are launched kernel by kernel.
    type RefuseGraphs = unsafe extern "C" fn(i32) -> u32;
    // SAFETY: the virtual GPU's driver was loaded, and its function of this name has this type.
    let refuse = |refuse: bool| unsafe {
        let library = cudarc::driver::sys::culib();
        let function = library.get::<RefuseGraphs>(b"diptych_virtual_gpu_refuse_graphs\0").unwrap();
        assert_eq!(function(refuse.into()), 0);
    };
    refuse(true);
    let launched = trained(&gpu, &session(&gpu, compiled(&[EntryKind::Train]), &program));
    refuse(false);
    assert!(launched == plain, "runs without graphs have other bits");

    // A tensor that is not there is told, with whose it is.
    let mut wrong = compiled(&kinds);
    give_maps(&mut wrong, &kinds);
    let score = wrong.entries.get_mut(&EntryKind::Score).unwrap();
    let kernel = score.device_kernels.iter_mut().find(|kernel| !kernel.maps.is_empty()).unwrap();
    kernel.maps[0].dims[1].extent = TensorExtent::Fixed(1 << 30);
    let name = kernel.name.clone();
    let session = session(&gpu, wrong, &program);
    let error = Server::new(&gpu, &session, ServeOptions::single(64)).err().unwrap().to_string();
    assert!(error.contains(&name) && error.contains("tensor map of its argument"), "{error}");
}
