//! How parameters start: a random stream for each parameter and layer, so that
//! adding a layer or a parameter changes no other number.

use crate::{ModelError, Result};
use diptych_ir::{Axis, Initializer, Program, Symbol};

/// The first values of a parameter, in the order of its axes as declared. They
/// are a function of the seed, the name, the layer and the element alone.
///
/// # Errors
/// When the program has no such parameter.
pub fn initialize(program: &Program, name: &str, seed: u64) -> Result<Vec<f32>> {
    let Some(info) = program.params.get(&Symbol::new(name)) else {
        let known: Vec<&str> = program.params.keys().map(|name| name.as_str()).collect();
        return Err(ModelError::Unknown {
            what: "parameter",
            name: name.to_owned(),
            known: known.join(", "),
        });
    };
    let size = |axis: &Axis| axis.fixed_size().unwrap_or(1);
    let layers = info.layers.as_ref().map_or(1, size);
    let elements: usize = info.order.iter().map(size).product::<usize>() / layers;
    let mut values = Vec::with_capacity(layers * elements);
    for layer in 0..layers {
        let stream = Stream::new(name, layer, seed);
        match info.initializer {
            Initializer::Constant(value) => values.resize(values.len() + elements, value as f32),
            Initializer::Uniform { bound } => values.extend(
                (0..elements).map(|element| ((2.0 * stream.unit(element as u64) - 1.0) * bound) as f32),
            ),
            Initializer::Between { least, most } => values.extend(
                (0..elements).map(|element| (least + (most - least) * stream.unit(element as u64)) as f32),
            ),
            Initializer::Normal { standard_deviation } => {
                let pairs = (0..elements.div_ceil(2)).flat_map(|pair| stream.normal_pair(pair as u64));
                values.extend(pairs.take(elements).map(|normal| (normal * standard_deviation) as f32));
            }
        }
    }
    Ok(values)
}

/// How many numbers a program trains.
pub fn count_parameters(program: &Program) -> usize {
    let elements =
        |order: &[Axis]| order.iter().map(|axis| axis.fixed_size().unwrap_or(1)).product::<usize>();
    program.params.values().map(|info| elements(&info.order)).sum()
}

/// Random bits by counter: a key for the stream, mixed with the position in it.
struct Stream(u64);

impl Stream {
    fn new(name: &str, layer: usize, seed: u64) -> Stream {
        // FNV-1a tells names apart; the mixer below spreads what it gives.
        let name = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Stream(mix(mix(mix(seed) ^ name) ^ layer as u64))
    }

    /// Uniform in the open interval from 0 to 1.
    fn unit(&self, position: u64) -> f64 {
        let bits = mix(self.0 ^ mix(position));
        ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Two independent standard normals (Box and Muller 1958).
    fn normal_pair(&self, pair: u64) -> [f64; 2] {
        let radius = (-2.0 * self.unit(2 * pair).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.unit(2 * pair + 1)).sin_cos();
        [radius * cos, radius * sin]
    }
}

/// The finaliser of SplitMix64 (Steele et al. 2014) after its increment.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Registry, build};
    use serde_json::json;

    fn llama(change: serde_json::Value) -> Program {
        let registry = Registry::zoo();
        let mut config = registry.preset("llama-tiny").unwrap().describe();
        config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        build(&*registry.architecture("llama", &config).unwrap()).unwrap()
    }

    #[test]
    fn a_layer_or_a_parameter_more_changes_no_other_number() {
        let (small, large) = (llama(json!({})), llama(json!({ "layers": 3, "query_key_norm": true })));
        for name in small.params.keys() {
            let before = initialize(&small, name.as_str(), 7).unwrap();
            let after = initialize(&large, name.as_str(), 7).unwrap();
            assert_eq!(before, after[..before.len()], "{name}");
        }
    }

    #[test]
    fn names_layers_and_seeds_have_streams_of_their_own() {
        let program = llama(json!({}));
        let values = |name, seed| initialize(&program, name, seed).unwrap();
        let gate = values("layers.gate", 7);
        assert_ne!(gate, values("layers.up", 7));
        assert_ne!(gate, values("layers.gate", 8));
        assert_ne!(gate[..gate.len() / 2], gate[gate.len() / 2..]);
        assert!(values("norm", 7).iter().all(|&value| value == 1.0));
        let error = initialize(&program, "layers.gates", 7).unwrap_err().to_string();
        assert!(error.starts_with("no parameter `layers.gates`; there are: embedding, head,"), "{error}");
    }

    #[test]
    fn normals_have_the_moments_of_normals() {
        let stream = Stream::new("x", 0, 1);
        let draws: Vec<f64> = (0..50_000).flat_map(|pair| stream.normal_pair(pair)).collect();
        let moment = |power: i32| draws.iter().map(|x| x.powi(power)).sum::<f64>() / draws.len() as f64;
        // Four standard errors of each mean over 100,000 draws.
        for (power, expected, tolerance) in [(1, 0.0, 0.013), (2, 1.0, 0.018), (3, 0.0, 0.05), (4, 3.0, 0.13)]
        {
            assert!((moment(power) - expected).abs() < tolerance, "moment {power} is {}", moment(power));
        }
    }
}
