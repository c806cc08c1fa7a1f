"""Compares training steps of jaxvae with those of other libraries, on the same work, in one process and in turn.

Install and run in a separate virtual environment (none of this is a dependency of the package):

    pip install . -r .ci/peers.txt
    python .ci/peers.py [--rounds=7] [--seconds=3] [--only=dense-128,conv-128]

The work: a VAE on 60,000 binary images of 28×28 (scikit-learn's digits, enlarged), kept in memory as uint8, gathered in
shuffled batches and converted to float32; Bernoulli likelihood, closed-form KL, Adam at 1e-3, the mean loss reported.

- dense-B: 784 - relu 400 - 20 latents and the mirror image, batches of B; pythae has its default network there, with
  512 hidden units;
- pythae-B: ours has 512 hidden units too. pythae's trainer, with its bar, reads floats through PyTorch's loader, from
  64 batches; its epochs are timed without validation and checkpoints;
- conv-B: the model of configs/mnist_conv.py; PyTorch's convolutions pad by 1.

`jaxvae step` is make_train_step in make_advance, with its metrics; `jaxvae loop` is what scripts/train.py runs, with
its metrics, its check for NaN and its bar. PyTorch runs with two threads, and torch.compile with the fused Adam. `bare
JAX` is the shortest loop around the same network: fused for the dense network, dispatched one by one for the
convolutional one. `bare JAX, our losses` takes its two terms from jaxvae.losses.

For dense steps, two rates of matrix products are also measured: that of a 2048 × 2048 product, and that of only the
step's own products, which no step on XLA can exceed.

Prints a table, then a JSON object for each ratio (above 1: jaxvae is faster), and at last a summary. Each ratio is of
two measurements in the same round, in random order; the median over the rounds and the quartiles are printed.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import logging
import random
import shutil
import tempfile
import time
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

import jaxvae as jv
from jaxvae import training
from jaxvae.data import Dataset, Split
from jaxvae.experiment import console, loop
from jaxvae.experiment.benchmark import subjects
from jaxvae.experiment.benchmark.timing import Spread, repeated, seconds_of
from jaxvae.experiment.environment import environment
from jaxvae.experiment.session import Trainer
from jaxvae.typing import Support

LATENTS, RATE = 20, 1e-3
OURS = ("jaxvae step", "jaxvae loop")
CASES = ("dense-128", "dense-512", "pythae-128", "pythae-512", "conv-128")
PAUSE = 0.3  # seconds, for one library's threads to fall asleep before the next is measured


def images():
    """60,000 × 28 × 28 × 1, uint8, 0 or 1."""
    small = np.asarray(load_digits().images > 7, np.uint8)
    large = np.pad(np.kron(small, np.ones((1, 3, 3), np.uint8)), ((0, 0), (2, 2), (2, 2)))
    return large[np.arange(60_000) % len(large), :, :, None]


def trainer_of(x, batch_size, encoder, decoder):
    experiment = jv.Experiment(
        model=jv.VAE(latent_dim=LATENTS, encoder=encoder, decoder=decoder),
        data=jv.Data(preprocess=jv.Scaling()),
        optimizer=jv.Adam(learning_rate=RATE),
        batch_size=batch_size,
    )
    dataset = Dataset(Split(x, None), None, None, Support(0.0, 1.0, integer=True))
    return Trainer.of(experiment.fit_to(dataset), dataset)


def jaxvae_step(trainer):
    state = trainer.new_session().state
    advance = trainer.make_advance()
    batches = subjects.resident(trainer)

    def run(num):
        nonlocal state
        state, totals = advance(state, training.Totals.zero(), batches, trainer.keys.train, num)
        return num, totals.means()["loss"]

    return run


def jaxvae_loop(trainer):
    session, step = trainer.new_session(), 0
    advance, log = loop.Dispatcher(trainer), types.SimpleNamespace(records=[])
    bar = console.start(trainer.num_steps, title="train", unit="step")

    def run(num):
        nonlocal session, step
        first, session = step, session._replace(totals=training.Totals.zero())
        while step < first + num:
            session = advance(session, step)
            step = int(session.state.step)
            assert session.totals.failure() is None
            bar.update(step, advance.describe(log, session.totals))
        return step - first, session.totals.means()["loss"]

    return run


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x, key):
        mean, log_var = jnp.split(nn.Dense(2 * LATENTS)(nn.relu(nn.Dense(400)(x.reshape(len(x), -1)))), 2, axis=-1)
        z = mean + jnp.exp(log_var / 2) * jax.random.normal(key, mean.shape)
        return mean, log_var, nn.Dense(784)(nn.relu(nn.Dense(400)(z))).reshape(x.shape)


class Conv(nn.Module):
    @nn.compact
    def __call__(self, x, key):
        h = nn.relu(nn.Conv(64, (4, 4), strides=2)(nn.relu(nn.Conv(32, (4, 4), strides=2)(x))))
        h = nn.relu(nn.Dense(256)(h.reshape(len(h), -1)))
        mean, log_var = jnp.split(nn.Dense(2 * LATENTS)(h), 2, axis=-1)
        z = mean + jnp.exp(log_var / 2) * jax.random.normal(key, mean.shape)
        h = nn.relu(nn.Dense(7 * 7 * 64)(nn.relu(nn.Dense(256)(z)))).reshape(-1, 7, 7, 64)
        h = nn.relu(nn.ConvTranspose(32, (4, 4), strides=(2, 2))(h))
        return mean, log_var, nn.ConvTranspose(1, (4, 4), strides=(2, 2))(h)


def bare_jax(x, batch_size, network, *, fused, our_losses=False):
    key, optimizer, x = jax.random.key(0), optax.adam(RATE), jnp.asarray(x)
    params = network.init(key, jnp.zeros((1, 28, 28, 1)), key)
    carry = params, optimizer.init(params), jnp.int32(0), jnp.float32(0)
    order = jax.random.permutation(key, len(x))[: len(x) // batch_size * batch_size].reshape(-1, batch_size)

    def loss_fn(params, batch, key):
        mean, log_var, logits = network.apply(params, batch, key)
        if our_losses:
            return jnp.mean(jv.losses.gaussian_kl(mean, log_var) - jv.losses.bernoulli_log_likelihood(logits, batch))
        kl = 0.5 * jnp.sum(jnp.exp(log_var) + mean**2 - 1 - log_var)
        distortion = jnp.maximum(logits, 0) - batch * logits + jnp.log1p(jnp.exp(-jnp.abs(logits)))
        return (jnp.sum(distortion) + kl) / batch_size

    def step(carry, x):
        params, opt_state, i, total = carry
        batch = x[order[i % len(order)]].astype(jnp.float32)
        loss, grads = jax.value_and_grad(loss_fn)(params, batch, jax.random.fold_in(key, i))
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, i + 1, total + loss

    one = jax.jit(step, donate_argnums=0)
    many = jax.jit(lambda c, x, num: jax.lax.fori_loop(0, num, lambda _, c: step(c, x), c), donate_argnums=0)

    def run(num):
        nonlocal carry
        carry = (*carry[:3], jnp.float32(0))
        for _ in range(1 if fused else num):
            carry = many(carry, x, num) if fused else one(carry, x)
        return num, float(carry[3]) / num

    return run


class TorchVAE(torch.nn.Module):
    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x):
        mean, log_var = self.encoder(x).chunk(2, -1)
        logits = self.decoder(mean + torch.exp(log_var / 2) * torch.randn_like(mean)).reshape(x.shape)
        kl = 0.5 * torch.sum(log_var.exp() + mean**2 - 1 - log_var)
        return (functional.binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl) / len(x)


def torch_dense():
    t = torch.nn
    encoder = t.Sequential(t.Flatten(), t.Linear(784, 400), t.ReLU(), t.Linear(400, 2 * LATENTS))
    return TorchVAE(encoder, t.Sequential(t.Linear(LATENTS, 400), t.ReLU(), t.Linear(400, 784)))


def torch_conv():
    t = torch.nn
    down = [t.Conv2d(1, 32, 4, 2, 1), t.ReLU(), t.Conv2d(32, 64, 4, 2, 1), t.ReLU(), t.Flatten()]
    up = [t.Unflatten(1, (64, 7, 7)), t.ConvTranspose2d(64, 32, 4, 2, 1), t.ReLU(), t.ConvTranspose2d(32, 1, 4, 2, 1)]
    encoder = t.Sequential(*down, t.Linear(3136, 256), t.ReLU(), t.Linear(256, 2 * LATENTS))
    return TorchVAE(encoder, t.Sequential(t.Linear(LATENTS, 256), t.ReLU(), t.Linear(256, 3136), t.ReLU(), *up))


def torch_run(x, batch_size, model, *, compiled=False, fused=None):
    x, optimizer = torch.from_numpy(x).reshape(-1, 1, 28, 28), torch.optim.Adam(model.parameters(), RATE, fused=fused)
    loss_fn, orders = torch.compile(model) if compiled else model, []

    def run(num):
        total = torch.zeros(())
        for _ in range(num):
            if not orders:
                orders.extend(torch.randperm(len(x)).split(batch_size)[: len(x) // batch_size])
            loss = loss_fn(x[orders.pop()].float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return num, total.item() / num

    return run


def pythae_run(x, batch_size, folder):
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.disable(logging.INFO)
    x = torch.from_numpy(x[: 64 * batch_size]).reshape(-1, 1, 28, 28)
    model = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENTS, reconstruction_loss="bce"))
    config = BaseTrainerConfig(output_dir=folder, per_device_train_batch_size=batch_size, learning_rate=RATE)
    trainer = BaseTrainer(model, BaseDataset(x, torch.zeros(len(x))), training_config=config)
    trainer.prepare_training()

    def run(num):
        losses = [trainer.train_step(epoch) for epoch in range(max(1, round(num / 64)))]
        return 64 * len(losses), sum(losses) / len(losses)

    return run


def hidden_of(kind):
    return 512 if kind == "pythae" else 400


def implementations(case, x, folder):
    """The implementations by name; jaxvae's two are first."""
    kind, batch_size = case.split("-")[0], int(case.split("-")[1])
    dense = jv.MLP(hidden=(hidden_of(kind),))
    networks = (jv.ConvEncoder(), jv.ConvDecoder()) if kind == "conv" else (dense, dense)
    trainer = trainer_of(x, batch_size, *networks)
    runs = dict(zip(OURS, (jaxvae_step(trainer), jaxvae_loop(trainer)), strict=True))
    if kind == "pythae":
        return runs | {"pythae": pythae_run(x, batch_size, folder)}
    make, network = (torch_conv, Conv()) if kind == "conv" else (torch_dense, Dense())
    runs["bare JAX"] = bare_jax(x, batch_size, network, fused=kind == "dense")
    runs["bare JAX, our losses"] = bare_jax(x, batch_size, network, fused=kind == "dense", our_losses=True)
    runs["PyTorch"] = torch_run(x, batch_size, make())
    runs["PyTorch, fused Adam"] = torch_run(x, batch_size, make(), fused=True)
    if shutil.which("c++") or shutil.which("g++") or shutil.which("clang++"):
        runs["torch.compile"] = torch_run(x, batch_size, make(), compiled=True, fused=True)
    else:
        print("torch.compile is left out: there is no C++ compiler")
    if kind == "dense":
        runs["pythae, 512 hidden"] = pythae_run(x, batch_size, folder)
    return runs


def own_products(batch_size, hidden):
    """Runs only the matrix products of dense steps and their gradients, one step after the other."""
    shapes = (784, hidden), (hidden, 2 * LATENTS), (LATENTS, hidden), (hidden, 784)
    x = jnp.ones((batch_size, 784))

    def products(weights, x):
        w_1, w_2, w_3, w_4 = weights
        h_1 = x @ w_1
        z = (h_1 @ w_2)[:, :LATENTS]
        h_2 = z @ w_3
        y = h_2 @ w_4
        d_2 = y @ w_4.T
        d_m = jnp.tile(d_2 @ w_3.T, 2)
        d_1 = d_m @ w_2.T
        return x.T @ d_1, h_1.T @ d_m, z.T @ d_2, h_2.T @ y  # have the weights' shapes, and are the next step's weights

    @jax.jit
    def many(weights, x, num):
        return jax.lax.fori_loop(0, num, lambda _, weights: products(weights, x), weights)

    weights = tuple(jnp.zeros(shape) for shape in shapes)
    return lambda num: jax.block_until_ready(many(weights, x, num))


def gradient_operations(batch_size, hidden):
    """The operations of a dense step's products: three forward passes, without the gradient for the images."""
    return 2 * batch_size * (3 * (784 * hidden + hidden * 2 * LATENTS + LATENTS * hidden + hidden * 784) - 784 * hidden)


def speed(run, num):
    """Steps per second, and the mean loss."""
    time.sleep(PAUSE)
    start = time.perf_counter()
    steps, loss = run(num)
    return steps / (time.perf_counter() - start), loss


def measure(case, x, *, rounds, seconds, folder):
    """Steps per second in each round, by name, with operations per second of a matrix product as `product`."""
    runs = implementations(case, x, folder)
    square = jax.random.normal(jax.random.key(0), (2048, 2048))
    product = repeated(lambda number, a, b: a @ b, square, square)
    kind, batch_size = case.split("-")
    own = None if kind == "conv" else own_products(int(batch_size), hidden_of(kind))
    first = {name: run(1)[1] for name, run in runs.items()}  # it compiles
    counts = {name: max(1, round(seconds * speed(run, 5)[0])) for name, run in runs.items()}
    product(1)
    rates, last = {name: [] for name in (*runs, "product", "own products")}, {}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(runs), len(runs)):  # caches and clocks depend on what ran before
            rate, last[name] = speed(runs[name], counts[name])
            rates[name].append(rate)
        time.sleep(PAUSE)
        rates["product"].append(5 * 2 * 2048**3 / seconds_of(product, 5))
        if own is not None:
            own(10)
            time.sleep(PAUSE)
            rates["own products"].append(counts[OURS[0]] / seconds_of(own, counts[OURS[0]]))
    for name in runs:
        assert last[name] < 0.98 * first[name], f"{case}, {name}: the loss went from {first[name]} to {last[name]}"
    return rates


def report(case, rates):
    """Prints a table and returns a row for each ratio."""
    product, own, rows = rates.pop("product"), rates.pop("own products"), []
    kind, batch_size = case.split("-")
    print(f"\n{case}: 2048×2048 product {Spread.of(product).median / 1e9:.0f} GFLOP/s")
    for name, theirs in rates.items():
        print(f"  {name:19} {Spread.of(theirs).median:8.1f} steps/s", end="")
        for us in [us for us in OURS if us != name]:
            ratio = Spread.of(np.divide(rates[us], theirs))
            print(f"   {us}: {ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) times its speed", end="")
            speeds = {"ours_per_second": Spread.of(rates[us]).median, "theirs_per_second": Spread.of(theirs).median}
            rows.append({"case": case, "ours": us, "theirs": name, "ratio": dataclasses.asdict(ratio), **speeds})
        print()
    if kind != "conv":
        work = gradient_operations(int(batch_size), hidden_of(kind))
        for name, limit in {"2048×2048 product": np.divide(product, work), "its own products": own}.items():
            ratio = Spread.of(np.divide(rates[OURS[0]], limit))
            print(f"  {OURS[0]}: {ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) of the rate of {name}")
            row = {"case": case, "ours": OURS[0], "theirs": name, "ratio": dataclasses.asdict(ratio)}
            rows.append(row | {"product_flops_per_second": Spread.of(product).median})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each implementation in each round")
    parser.add_argument("--only", default=",".join(CASES), help=f"some of {','.join(CASES)}")
    args = parser.parse_args()
    if not set(args.only.split(",")) <= set(CASES):
        parser.error(f"--only={args.only}: write some of {','.join(CASES)}")

    torch.set_num_threads(2)
    about = environment()
    about["versions"] |= {"torch": torch.__version__, "pythae": importlib.metadata.version("pythae")}
    x, rows = images(), []
    with tempfile.TemporaryDirectory() as folder:
        for case in args.only.split(","):
            rows += report(case, measure(case, x, rounds=args.rounds, seconds=args.seconds, folder=folder))
    for row in rows:
        print(json.dumps(row | about))
    ratios = {f"{r['case']}: {r['ours']} / {r['theirs']}": round(r["ratio"]["median"], 3) for r in rows}
    print(json.dumps({"ratios": ratios} | about))


if __name__ == "__main__":
    main()
