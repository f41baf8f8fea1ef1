//! The server of one program: entries, cache and sequences. All memory is
//! taken when it is made; no call after that allocates or compiles. It decides
//! what runs together, which changes no bit of any result.

use super::DecodeError;
use super::chunks::{ChunkTable, FreeChunks};
use super::memory::ServeMemory;
use crate::executor::{Binding, CacheRooms, CacheSize, Executable, Sequence, SharedMemory};
use crate::session::{Device, Session, SessionError};
use diptych_codegen::driver::CompiledProgram;
use diptych_codegen::entry::{Limits, Role};
use diptych_codegen::tile::CHUNK;
use diptych_ir::EntryKind;

/// What a server has room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServeOptions {
    /// Most tokens of one run of `prefill` or `score`; longer prompts run in pieces.
    pub rows: usize,
    /// Most sequences of one call.
    pub batch: usize,
    /// Most sequences alive.
    pub sequences: usize,
    /// Positions that the cache holds, of all sequences together; rounded up to chunks of 64.
    pub cache_positions: usize,
}

impl ServeOptions {
    /// The largest run of an entry, in a session of this context.
    pub(super) fn limits(&self, kind: EntryKind, context: usize) -> Limits {
        let rows = match kind {
            EntryKind::Decode => self.batch,
            EntryKind::Score => self.rows.max(context),
            _ => self.rows,
        };
        Limits { rows, batch: self.batch }
    }

    /// The size of the cache.
    pub(super) fn cache(&self) -> CacheSize {
        CacheSize { chunks: self.cache_positions.div_ceil(CHUNK), sequences: self.sequences }
    }

    /// One sequence at a time, as long as the context allows.
    pub fn single(context: usize) -> ServeOptions {
        ServeOptions { rows: context.min(512), batch: 1, sequences: 1, cache_positions: context }
    }

    fn check(&self) -> Result<(), DecodeError> {
        let sizes = [
            ("rows", self.rows),
            ("batch", self.batch),
            ("sequences", self.sequences),
            ("cache_positions", self.cache_positions),
        ];
        match sizes.into_iter().find(|size| size.1 == 0 || size.1 > i32::MAX as usize / CHUNK) {
            Some((option, found)) => {
                let expected = format!("from 1 to {}", i32::MAX as usize / CHUNK);
                Err(DecodeError::Option { option, found, expected })
            }
            None => Ok(()),
        }
    }
}

/// A sequence of a server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SequenceId {
    place: usize,
    generation: u64,
}

/// Text to be scored.
#[derive(Clone, Copy, Debug)]
pub struct Window<'t> {
    /// The tokens, from position 0 on.
    pub tokens: &'t [i32],
    /// The token whose log-probability is asked for at each position; below 0: none.
    pub targets: &'t [i32],
}

/// An entry with its memory and its tables.
struct Loaded {
    run: Executable,
    binding: Binding,
}

struct Place {
    table: ChunkTable,
    generation: u64,
    alive: bool,
}

/// A piece of a prompt within a run.
#[derive(Clone, Copy)]
struct Piece {
    /// Position of the prompt in the call.
    prompt: usize,
    place: usize,
    /// First of its tokens in the prompt.
    start: usize,
    /// Position of that token in the sequence.
    origin: usize,
    length: usize,
}

/// The entries that serve.
pub const SERVING: [EntryKind; 3] = [EntryKind::Prefill, EntryKind::Decode, EntryKind::Score];

/// Serves a session's parameters: `prefill`, `decode`, `score`, as the session
/// was compiled with them.
pub struct Server<'s> {
    device: &'s Device,
    session: &'s Session,
    prefill: Option<Loaded>,
    decode: Option<Loaded>,
    score: Option<Loaded>,
    caches: CacheRooms,
    free: FreeChunks,
    places: Vec<Place>,
    options: ServeOptions,
    context: usize,
    vocabulary: usize,
    window: Option<usize>,
    logits: Vec<f32>,
    pieces: Vec<Piece>,
    memory: ServeMemory,
}

impl<'s> Server<'s> {
    /// Loads the entries that the session has, and takes all memory.
    ///
    /// # Errors
    /// When an option is 0 or absurd, an entry lacks an input or a root that is
    /// needed, or memory is short.
    pub fn new(
        device: &'s Device,
        session: &'s Session,
        options: ServeOptions,
    ) -> Result<Server<'s>, DecodeError> {
        Self::with(device, session, options, &SERVING)
    }

    /// As [`Server::new`], with no other entries than `kinds`.
    ///
    /// # Errors
    /// As said there.
    pub fn with(
        device: &'s Device,
        session: &'s Session,
        options: ServeOptions,
        kinds: &[EntryKind],
    ) -> Result<Server<'s>, DecodeError> {
        options.check()?;
        let (compiled, context) = (&session.compiled, session.context);
        let memory = ServeMemory::of(device, compiled, context, options, kinds);
        let size = options.cache();
        let cached = memory.cached(compiled);
        let caches = match cached {
            Some(entry) => device.caches(entry, size)?,
            None => CacheRooms::default(),
        };
        let workspace = device.workspace(memory.entries.iter().map(|entry| entry.1))?;
        let shared = SharedMemory { caches: Some(&caches), workspace: Some(&workspace) };
        let vocabulary = vocabulary(compiled);
        let load = |kind: EntryKind| -> Result<Option<Loaded>, DecodeError> {
            if !memory.entries.iter().any(|entry| entry.0 == kind) {
                return Ok(None);
            }
            let limits = options.limits(kind, context);
            let mut run = session.executable_in(device, kind, shared, limits)?;
            check_entry(kind, &mut run, vocabulary)?;
            let size = if kind.cached() { size } else { CacheSize::default() };
            Ok(Some(Loaded { run, binding: Binding::cached(limits, context, size) }))
        };
        let mut server = Server {
            device,
            session,
            prefill: load(EntryKind::Prefill)?,
            decode: load(EntryKind::Decode)?,
            score: load(EntryKind::Score)?,
            window: cached.and_then(|entry| window(entry.buffers.iter().map(|buffer| &buffer.role))),
            caches,
            free: FreeChunks::new(size.chunks),
            places: (0..options.sequences)
                .map(|_| Place { table: ChunkTable::new(context), generation: 0, alive: false })
                .collect(),
            options,
            context,
            vocabulary,
            logits: vec![0.0; options.batch * vocabulary],
            pieces: Vec::with_capacity(options.batch),
            memory,
        };
        server.refresh()?;
        Ok(server)
    }

    /// Takes the session's parameters as they are now, and computes anew what depends on them alone. To be called after
    /// parameters change.
    ///
    /// # Errors
    /// When a GPU fails.
    pub fn refresh(&mut self) -> Result<(), DecodeError> {
        self.session.store.upload().map_err(SessionError::from)?;
        for loaded in [&mut self.prefill, &mut self.decode, &mut self.score].into_iter().flatten() {
            loaded.run.refresh(self.device, &loaded.binding).map_err(SessionError::from)?;
        }
        Ok(())
    }

    /// The most positions of a sequence.
    pub fn context(&self) -> usize {
        self.context
    }

    /// How many token ids there are.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// What it has room for.
    pub fn options(&self) -> ServeOptions {
        self.options
    }

    /// Bytes of cache that are allocated.
    pub fn cache_bytes(&self) -> usize {
        self.caches.bytes()
    }

    /// Bytes of cache that a sequence takes whatever its length: the states of
    /// recurrences, in all layers.
    pub fn cache_bytes_per_sequence(&self) -> usize {
        self.caches.bytes_per_sequence()
    }

    /// Bytes of cache that one position takes, in all layers.
    pub fn cache_bytes_per_token(&self) -> usize {
        self.caches.bytes_per_token()
    }

    /// Positions of the cache that no sequence has.
    pub fn free_positions(&self) -> usize {
        self.free.count() * CHUNK
    }

    /// What it takes of memory.
    pub fn memory(&self) -> &ServeMemory {
        &self.memory
    }

    /// The entry of a kind as it runs, for its times; `None` if the session has none.
    pub fn executable(&mut self, kind: EntryKind) -> Option<&mut Executable> {
        let loaded = match kind {
            EntryKind::Prefill => &mut self.prefill,
            EntryKind::Decode => &mut self.decode,
            EntryKind::Score => &mut self.score,
            _ => return None,
        };
        loaded.as_mut().map(|loaded| &mut loaded.run)
    }

    /// Starts a sequence with no token yet.
    ///
    /// # Errors
    /// When as many are alive as the options say.
    pub fn start(&mut self) -> Result<SequenceId, DecodeError> {
        let free = self.places.iter().position(|place| !place.alive);
        let place = free.ok_or(DecodeError::Sequences(self.options.sequences))?;
        self.places[place].alive = true;
        self.places[place].generation += 1;
        Ok(SequenceId { place, generation: self.places[place].generation })
    }

    /// Ends a sequence and gives its cache back. One that ended before is left alone.
    pub fn release(&mut self, sequence: SequenceId) {
        if let Some(place) = self.places.get_mut(sequence.place)
            && place.alive
            && place.generation == sequence.generation
        {
            place.table.clear(&mut self.free);
            place.alive = false;
        }
    }

    /// Tokens of a sequence so far; `None` if it is not alive.
    pub fn length(&self, sequence: SequenceId) -> Option<usize> {
        let place = self.places.get(sequence.place)?;
        (place.alive && place.generation == sequence.generation).then_some(place.table.length)
    }

    /// Appends tokens to sequences, and returns the logits after the last token
    /// of each: `vocabulary()` numbers for each sequence, in the order of the
    /// call. A prompt may come in several calls, cut anywhere.
    ///
    /// # Errors
    /// When a sequence is not alive, is there twice, has no token, or would
    /// exceed the context; when a token is not of the vocabulary; when the cache
    /// is full. Nothing has changed then, but where all layers have windows: there
    /// a cache may turn out too small half way, and the sequences are to be released.
    pub fn prefill(&mut self, prompts: &[(SequenceId, &[i32])]) -> Result<&[f32], DecodeError> {
        self.check(prompts.iter().map(|&(sequence, tokens)| (sequence, tokens)))?;
        if self.prefill.is_none() {
            return Err(SessionError::NoEntry(EntryKind::Prefill.name()).into());
        }
        let (mut prompt, mut done) = (0, 0);
        while prompt < prompts.len() {
            let mut room = self.options.rows;
            self.pieces.clear();
            while prompt < prompts.len() && room > 0 {
                let (sequence, tokens) = prompts[prompt];
                let length = room.min(tokens.len() - done);
                let origin = self.places[sequence.place].table.length;
                self.pieces.push(Piece { prompt, place: sequence.place, start: done, origin, length });
                room -= length;
                done += length;
                if done == tokens.len() {
                    (prompt, done) = (prompt + 1, 0);
                }
            }
            self.run(EntryKind::Prefill, |prompt| prompts[prompt].1)?;
        }
        Ok(&self.logits[..prompts.len() * self.vocabulary])
    }

    /// Appends one token to each of some sequences, and returns the logits after it, as `prefill` does.
    ///
    /// # Errors
    /// As `prefill`.
    pub fn decode(&mut self, tokens: &[(SequenceId, i32)]) -> Result<&[f32], DecodeError> {
        self.check(tokens.iter().map(|(sequence, token)| (*sequence, std::slice::from_ref(token))))?;
        if self.decode.is_none() {
            return Err(SessionError::NoEntry(EntryKind::Decode.name()).into());
        }
        if tokens.is_empty() {
            return Ok(&[]);
        }
        self.pieces.clear();
        for (prompt, &(SequenceId { place, .. }, _)) in tokens.iter().enumerate() {
            let origin = self.places[place].table.length;
            self.pieces.push(Piece { prompt, place, start: 0, origin, length: 1 });
        }
        self.run(EntryKind::Decode, |prompt| std::slice::from_ref(&tokens[prompt].1))?;
        Ok(&self.logits[..tokens.len() * self.vocabulary])
    }

    /// The log-probability of each target of each window, one window after the
    /// other, into `log_probs`; 0 where there is none. Nothing is cached.
    ///
    /// # Errors
    /// When a window is empty, longer than the context, or has other than one
    /// target a token; when a token or target is not of the vocabulary.
    pub fn score(&mut self, windows: &[Window], log_probs: &mut Vec<f32>) -> Result<(), DecodeError> {
        for (window, &Window { tokens, targets }) in windows.iter().enumerate() {
            self.check_tokens(window, 0, tokens)?;
            if tokens.len() != targets.len() {
                let (tokens, targets) = (tokens.len(), targets.len());
                return Err(DecodeError::Targets { window, tokens, targets });
            }
            if let Some(&token) = targets.iter().find(|&&target| target >= self.vocabulary as i32) {
                return Err(DecodeError::Token { sequence: window, token, vocabulary: self.vocabulary });
            }
        }
        log_probs.clear();
        let missing = SessionError::NoEntry(EntryKind::Score.name());
        let Loaded { run, binding } = self.score.as_mut().ok_or(missing)?;
        let Limits { rows, batch } = run.limits();
        let mut rest = windows;
        while !rest.is_empty() {
            let mut room = rows;
            let fits = |window: &&Window| {
                let fits = window.tokens.len() <= room;
                room = room.saturating_sub(window.tokens.len());
                fits
            };
            let count = rest.iter().take(batch).take_while(fits).count();
            let (now, later) = rest.split_at(count.max(1));
            rest = later;
            binding
                .bind_each(now.iter().map(|window| Sequence {
                    origin: 0,
                    length: window.tokens.len(),
                    chunks: &[],
                    state: 0,
                }))
                .map_err(SessionError::from)?;
            fill(run, "tokens", now.iter().map(|window| window.tokens));
            fill(run, "targets", now.iter().map(|window| window.targets));
            run.run(self.device, binding).map_err(SessionError::from)?;
            log_probs.extend_from_slice(&run.root("log_prob").unwrap_or_default()[..binding.rows()]);
        }
        Ok(())
    }

    /// Refuses what cannot be appended to sequences.
    fn check<'t>(
        &self,
        given: impl Iterator<Item = (SequenceId, &'t [i32])> + Clone,
    ) -> Result<(), DecodeError> {
        let count = given.clone().count();
        if count > self.options.batch {
            return Err(DecodeError::TooMany { what: "sequences", found: count, most: self.options.batch });
        }
        let mut free = self.free.count();
        for (number, (sequence, tokens)) in given.clone().enumerate() {
            let past = self.length(sequence).ok_or(DecodeError::Unknown(number))?;
            if given.clone().take(number).any(|(other, _)| other == sequence) {
                return Err(DecodeError::Twice(number));
            }
            self.check_tokens(number, past, tokens)?;
            let missing = self.places[sequence.place].table.missing(past + tokens.len());
            // With windows, chunks come back between pieces.
            if self.window.is_none() && missing > free {
                return Err(self.cache_full(number, missing, free));
            }
            free = free.saturating_sub(missing);
        }
        Ok(())
    }

    fn check_tokens(&self, sequence: usize, past: usize, tokens: &[i32]) -> Result<(), DecodeError> {
        let (length, context, vocabulary) = (past + tokens.len(), self.context, self.vocabulary);
        if tokens.is_empty() {
            return Err(DecodeError::Empty(sequence));
        }
        if length > context {
            return Err(DecodeError::Context { sequence, length, context });
        }
        match tokens.iter().find(|&&token| token < 0 || token as usize >= vocabulary) {
            Some(&token) => Err(DecodeError::Token { sequence, token, vocabulary }),
            None => Ok(()),
        }
    }

    fn cache_full(&self, sequence: usize, missing: usize, free: usize) -> DecodeError {
        let (needed, free) = (missing * CHUNK, free * CHUNK);
        DecodeError::CacheFull { sequence, needed, free, total: self.free.total() * CHUNK }
    }

    /// Runs an entry on the pieces at hand and keeps the logits of each;
    /// `tokens` gives the tokens of a prompt of the call.
    fn run<'t>(&mut self, kind: EntryKind, tokens: impl Fn(usize) -> &'t [i32]) -> Result<(), DecodeError> {
        for index in 0..self.pieces.len() {
            let Piece { prompt, place, origin, length, .. } = self.pieces[index];
            let reserved = self.places[place].table.reserve(origin + length, &mut self.free);
            reserved.map_err(|missing| self.cache_full(prompt, missing, self.free.count()))?;
        }
        let missing = SessionError::NoEntry(kind.name());
        let loaded = match kind {
            EntryKind::Prefill => self.prefill.as_mut(),
            _ => self.decode.as_mut(),
        };
        let Loaded { run, binding } = loaded.ok_or(missing)?;
        let (places, pieces) = (&mut self.places, &self.pieces);
        binding
            .bind_each(pieces.iter().map(|piece| Sequence {
                origin: piece.origin,
                length: piece.length,
                chunks: &places[piece.place].table.chunks,
                state: piece.place,
            }))
            .map_err(SessionError::from)?;
        let of = |piece: &Piece| &tokens(piece.prompt)[piece.start..piece.start + piece.length];
        fill(run, "tokens", pieces.iter().map(of));
        let last = run.input::<i32>("last").unwrap_or_default();
        for (last, piece) in last.iter_mut().zip(pieces) {
            *last = piece.length as i32 - 1;
        }
        run.run(self.device, binding).map_err(SessionError::from)?;
        let logits = run.root("logits").unwrap_or_default();
        for (piece, logits) in pieces.iter().zip(logits.chunks_exact(self.vocabulary)) {
            let at = piece.prompt * self.vocabulary;
            self.logits[at..at + self.vocabulary].copy_from_slice(logits);
            let table = &mut places[piece.place].table;
            table.length = piece.origin + piece.length;
            if let Some(window) = self.window {
                table.drop_unseen(window, &mut self.free);
            }
        }
        Ok(())
    }
}

/// Refuses an entry without the inputs and roots that serving fills and reads.
fn check_entry(kind: EntryKind, run: &mut Executable, vocabulary: usize) -> Result<(), DecodeError> {
    let Limits { rows, batch } = run.limits();
    let (inputs, root, width, root_rows): (&[&str], _, _, _) = match kind {
        EntryKind::Score => (&["tokens", "targets"], "log_prob", 1, rows),
        // That it needs no word of which row is last is for the program to say.
        _ => (&["tokens"], "logits", vocabulary, batch),
    };
    let wrong = |problem: String| Err(DecodeError::Entry { entry: kind.name(), problem });
    for name in inputs {
        match run.input::<i32>(name).map(|input| input.len()) {
            None => return wrong(format!("it has no input `{name}`; it needs the inputs {inputs:?}")),
            Some(found) if found < rows => {
                return wrong(format!(
                    "input `{name}` has {found} numbers for {rows} rows; it needs one each"
                ));
            }
            Some(_) => {}
        }
    }
    match run.root(root).map(<[f32]>::len) {
        None => wrong(format!("it has no root `{root}`")),
        Some(found) if width == 0 || found < root_rows * width => {
            wrong(format!("root `{root}` has {found} numbers; it needs {width} for each of {root_rows} rows"))
        }
        Some(_) => Ok(()),
    }
}

/// Fills an input with rows given one after the other.
fn fill<'t>(run: &mut Executable, name: &str, given: impl Iterator<Item = &'t [i32]>) {
    let mut rest = run.input::<i32>(name).unwrap_or_default();
    for given in given {
        let (now, later) = rest.split_at_mut(given.len());
        now.copy_from_slice(given);
        rest = later;
    }
}

/// How many token ids a program has: the size of its logits.
fn vocabulary(compiled: &CompiledProgram) -> usize {
    let logits = [EntryKind::Prefill, EntryKind::Decode].into_iter().find_map(|kind| {
        let program = compiled.program_of(kind);
        Some((program, program.entry(kind)?.root("logits")?))
    });
    logits.map_or(0, |(program, logits)| {
        program.main().graph.axes(logits).iter().filter_map(|axis| axis.fixed_size()).product()
    })
}

/// The most positions that any cache is read back to; `None` if one is read to its start.
fn window<'r>(mut roles: impl Iterator<Item = &'r Role>) -> Option<usize> {
    roles.try_fold(1, |most, role| match role {
        Role::Cache { window, .. } => window.map(|window| most.max(window)),
        _ => Some(most),
    })
}
