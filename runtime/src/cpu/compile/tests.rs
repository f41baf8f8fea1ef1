//! Each test has a cache folder of its own and runs the real compiler of the machine.

use super::cache::{Key, hex};
use super::*;
use sha2::{Digest, Sha256};

fn source(name: &str, value: i32) -> CSource {
    CSource { name: name.into(), text: format!("int answer(void) {{ return {value}; }}\n") }
}

fn flags() -> Vec<String> {
    vec!["-O1".into(), "-march=native".into()]
}

fn answer(library: &Library) -> i32 {
    // SAFETY: the sources above define it with this type.
    unsafe {
        let address = library.symbol("answer").unwrap();
        std::mem::transmute::<*const c_void, extern "C" fn() -> i32>(address)()
    }
}

fn compile(sources: &[CSource], cache: &KernelCache) -> Compiled {
    compile_all(&Compiler::find().unwrap(), sources, &flags(), cache, 2).unwrap()
}

fn objects(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "so")).collect()
}

#[test]
fn sources_become_functions_once_and_are_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = KernelCache::at(folder.path().join("deep/kernels"));
    let sources = [source("one", 1), source("two", 2), source("three", 3), source("one again", 1)];
    for (round, (hits, compiled)) in [(1, 3), (4, 0)].into_iter().enumerate() {
        let made = compile(&sources, &cache);
        assert_eq!(made.libraries.iter().map(answer).collect::<Vec<_>>(), [1, 2, 3, 1]);
        assert_eq!((made.stats.hits, made.stats.compiled), (hits, compiled), "round {round}");
        assert_eq!(made.stats.warnings, [] as [String; 0]);
        assert_eq!(made.libraries[3].name(), "one again");
    }
    let kept = std::fs::read_dir(cache.folder().unwrap()).unwrap().count();
    assert_eq!(kept, 3, "scratch files must not stay");
}

#[test]
fn flags_and_compiler_are_part_of_the_key() {
    let compiler = Compiler::find().unwrap();
    let other = Compiler { version: "another 1.0".into(), ..compiler.clone() };
    let text = source("a", 1);
    let key = |flags: &[&str], compiler: &Compiler| {
        Key::of(&text, &flags.iter().map(|flag| flag.to_string()).collect::<Vec<_>>(), compiler)
    };
    assert_eq!(key(&["-O1"], &compiler), key(&["-O1"], &compiler));
    assert_ne!(key(&["-O1"], &compiler), key(&["-O2"], &compiler));
    assert_ne!(key(&["-a", "b"], &compiler), key(&["-ab"], &compiler));
    assert_ne!(key(&["-O1"], &compiler), key(&["-O1"], &other));
}

#[test]
fn a_refused_source_is_shown_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let bad = CSource { name: "bad/kernel".into(), text: "int answer(void) { return nonsense; }\n".into() };
    let compiler = Compiler::find().unwrap();
    let cache = KernelCache::at(folder.path());
    let error = compile_all(&compiler, &[source("good", 1), bad.clone()], &flags(), &cache, 2).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("nonsense") && message.contains("bad/kernel"), "{message}");
    assert!(message.contains("-shared") && message.contains("exit status: 1"), "{message}");
    let CompileError::Failed { source_path: Some(source_path), .. } = error else { panic!("{message}") };
    assert_eq!(std::fs::read_to_string(&source_path).unwrap(), bad.text);
    std::fs::remove_file(source_path).unwrap();
}

#[test]
fn damaged_files_are_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = KernelCache::at(folder.path());
    let sources = [source("kernel", 7)];
    drop(compile(&sources, &cache));
    let path = objects(folder.path()).remove(0);
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damage in [b"not an object".to_vec(), Vec::new(), whole[..whole.len() / 2].to_vec(), flipped] {
        std::fs::write(&path, damage).unwrap();
        let made = compile(&sources, &cache);
        assert_eq!(answer(&made.libraries[0]), 7);
        assert_eq!(made.stats.compiled, 1);
        assert!(made.stats.warnings[0].contains("damaged"), "{:?}", made.stats.warnings);
        drop(made);
        assert_eq!(compile(&sources, &cache).stats.hits, 1);
    }
}

#[test]
fn a_file_that_is_whole_and_cannot_be_loaded_is_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let compiler = Compiler::find().unwrap();
    let sources = [source("kernel", 8)];
    let Key(key) = Key::of(&sources[0], &flags(), &compiler);
    let contents = hex(&Sha256::digest(b"text"));
    std::fs::write(folder.path().join(format!("{key}-{}.so", &contents[..32])), b"text").unwrap();
    let made = compile(&sources, &KernelCache::at(folder.path()));
    assert_eq!(answer(&made.libraries[0]), 8);
    assert_eq!((made.stats.compiled, made.stats.warnings.len()), (1, 1));
    assert_eq!(objects(folder.path()).len(), 1);
}

#[test]
fn an_unusable_folder_costs_a_warning_only() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    for _ in 0..2 {
        let made = compile(&[source("a", 4), source("b", 5)], &KernelCache::at(file.join("kernels")));
        assert_eq!(made.libraries.iter().map(answer).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(made.stats.warnings.len(), 1);
        assert!(made.stats.warnings[0].contains("not kept for the next run"), "{:?}", made.stats.warnings);
    }
}

#[test]
fn a_missing_symbol_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let made = compile(&[source("kernel", 1)], &KernelCache::at(folder.path()));
    // SAFETY: the address is not used.
    let error = unsafe { made.libraries[0].symbol("question") }.unwrap_err().to_string();
    assert!(error.contains("`kernel`") && error.contains("`question`"), "{error}");
}

#[test]
fn processes_and_threads_may_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let cache = KernelCache::at(folder.path());
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| compile(&[source("a", 1), source("b", 2)], &cache).libraries))
            .collect();
        for run in runs {
            assert_eq!(run.join().unwrap().iter().map(answer).collect::<Vec<_>>(), [1, 2]);
        }
    });
    assert_eq!(compile(&[source("a", 1)], &cache).stats.hits, 1);
}

#[test]
fn a_disk_that_fills_while_compiling_costs_a_warning_only() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().canonicalize().unwrap();
    let script = format!(
        "case \"$*\" in *{}*) echo 'error writing: No space left on device' >&2; exit 1;; *) exec cc \"$@\";; esac",
        place.display()
    );
    let command = ["sh", "-c", &script, "sh"].map(String::from).to_vec();
    let compiler = Compiler { command, ..Compiler::find().unwrap() };
    let sources = [source("filling", 4), source("filling", 5)];
    let made = compile_all(&compiler, &sources, &flags(), &KernelCache::at(&place), 2).unwrap();
    assert_eq!(made.libraries.iter().map(answer).collect::<Vec<_>>(), [4, 5]);
    assert!(made.stats.warnings.iter().all(|warning| warning.contains("No space left on device")));
    assert!(!made.stats.warnings.is_empty());
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
    let mut left = std::fs::read_dir(std::env::temp_dir()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(
        !left.any(|name| name.to_string_lossy().starts_with("diptych-filling-")),
        "a source was left behind"
    );
}
