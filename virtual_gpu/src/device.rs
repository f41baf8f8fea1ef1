//! A device: memory, modules, launches.

use crate::counters::LaunchReport;
use crate::decode::decode;
use crate::error::{LaunchError, LoadError, MemoryError};
use crate::execute::{Configuration, LaunchSizes, Limits, launch};
use crate::memory::global::GlobalMemory;
use crate::parse::parse;
use crate::program::Kernel;
use crate::target::Target;
use std::collections::HashMap;

/// A loaded module.
#[derive(Clone, Debug)]
pub struct Module {
    kernels: Vec<Kernel>,
    /// Address and size of each variable in global or constant space.
    variables: HashMap<String, (u64, usize)>,
}

impl Module {
    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name() == name)
    }

    /// All kernels, in the order of the text.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    /// Address and size in bytes of a variable of the module.
    pub fn variable(&self, name: &str) -> Option<(u64, usize)> {
        self.variables.get(name).copied()
    }
}

/// A virtual GPU.
pub struct Device {
    target: Target,
    memory: GlobalMemory,
    launches: u32,
}

impl Device {
    /// A device with that many bytes of memory. They are taken from the host as they are allocated and written.
    pub fn new(target: Target, memory_bytes: usize) -> Self {
        Device { target, memory: GlobalMemory::new(memory_bytes), launches: 0 }
    }

    /// What the device is.
    pub fn target(&self) -> Target {
        self.target
    }

    /// Free and total bytes of memory.
    pub fn memory_bytes(&self) -> (usize, usize) {
        (self.memory.free_bytes(), self.memory.total())
    }

    /// Allocates memory, undefined until it is written. Addresses are multiples of 65536 and are never given out twice.
    pub fn allocate(&mut self, bytes: usize) -> Result<u64, MemoryError> {
        self.memory.allocate(bytes)
    }

    /// Frees an allocation.
    pub fn free(&mut self, address: u64) -> Result<(), MemoryError> {
        self.memory.free(address)
    }

    /// Base and length of the allocation that holds an address.
    pub fn allocation_of(&mut self, address: u64) -> Option<(u64, usize)> {
        self.memory.allocation_of(address)
    }

    /// Copies from the host.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        self.memory.write(address, bytes)
    }

    /// Copies to the host. Undefined bytes may be read, they have some value.
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read(address, bytes)
    }

    /// Fills memory with `count` copies of a value of 1, 2 or 4 bytes.
    pub fn fill(&mut self, address: u64, value: &[u8], count: usize) -> Result<(), MemoryError> {
        self.memory.fill(address, value, count)
    }

    /// Copies within the device.
    pub fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result<(), MemoryError> {
        self.memory.copy(to, from, bytes)
    }

    /// Makes bytes undefined again: for a part of an arena that gets a new use, so that reads of what its former owner
    /// left there are found.
    pub fn forget(&mut self, address: u64, bytes: usize) -> Result<(), MemoryError> {
        self.memory.forget(address, bytes)
    }

    /// Parses and decodes a module; every instruction form that is not modelled is an error here.
    pub fn load(&mut self, ptx: &str) -> Result<Module, LoadError> {
        let parsed = parse(ptx)?;
        if !self.target.runs(&parsed.target) {
            return Err(LoadError::Target {
                found: parsed.target,
                device: self.target.name().to_string(),
                problem: "it runs modules for its own and for earlier architectures, and architecture-specific ones \
                          (with an `a`) for its own alone"
                    .to_string(),
            });
        }
        let mut variables = HashMap::new();
        for variable in &parsed.variables {
            let bytes = variable.bytes.len();
            let address = self
                .memory
                .allocate(bytes)
                .and_then(|address| self.memory.write(address, &variable.bytes).map(|()| address))
                .map_err(|problem| LoadError::Syntax {
                    line: 1,
                    problem: format!("{}: {problem}", variable.name),
                })?;
            variables.insert(variable.name.clone(), (address, bytes));
        }
        let addresses = variables.iter().map(|(name, (address, _))| (name.clone(), *address)).collect();
        let kernels = parsed
            .kernels
            .iter()
            .map(|kernel| decode(kernel, &parsed.target, &addresses))
            .collect::<Result<_, _>>()?;
        Ok(Module { kernels, variables })
    }

    /// Executes a kernel to its end, or to the first failed check. `parameters` is the parameter buffer: see
    /// [`Kernel::parameters`] for its layout, and [`Arguments`](crate::Arguments) for making one.
    pub fn launch(
        &mut self,
        kernel: &Kernel,
        sizes: &LaunchSizes,
        parameters: &[u8],
        configuration: &Configuration,
    ) -> Result<LaunchReport, LaunchError> {
        self.launches += 1;
        let limits = Limits {
            shared_per_block: self.target.shared_bytes_per_block(),
            processors: self.target.processors(),
        };
        launch(&mut self.memory, kernel, sizes, parameters, configuration, limits, self.launches)
    }
}
