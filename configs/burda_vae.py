"""The one-layer model of Burda, Grosse and Salakhutdinov (2016), section 5 and table 1: the ELBO of k draws.

    python scripts/train.py --config=configs/burda_vae.py --config.data.data_dir=DIR --workdir=runs/vae

The schedule is not the paper's (Adam, batches of 20, 3,280 epochs). `scripts/burda.py` runs this and the table's other
cells, including those with a fixed binarization.

Expected: test ELBO -89.3 nats, log p(x) at least -85.7 (5,000 draws); 23 minutes on two busy cores.
"""

import jaxvae as jv


def get_config() -> jv.Experiment:
    return jv.Experiment(
        data=jv.Data(name="mnist"),
        model=jv.VAE(
            latent_dim=50,
            encoder=jv.MLP(hidden=(200, 200), activation="tanh"),
            decoder=jv.MLP(hidden=(200, 200), activation="tanh"),
            likelihood=jv.Bernoulli(),
        ),
        objective=jv.ELBO(num_samples=1),
        optimizer=jv.Muon(learning_rate=0.03, schedule=jv.Cosine(warmup_epochs=1)),
        num_epochs=450,
        batch_size=1000,
        eval_every_epochs=10,
        checkpoint_every_epochs=10,
    )
