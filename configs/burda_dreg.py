"""The one-layer model of Burda, Grosse and Salakhutdinov (2016), with the gradient of Tucker et al. (2019).

    python scripts/train.py --config=configs/burda_dreg.py --config.data.data_dir=DIR --workdir=runs/dreg

The schedule is not the paper's (Adam, batches of 20, 3,280 epochs). `scripts/burda.py` runs this and the table's other
cells, including those with a fixed binarization.

Expected: test ELBO -90.4 nats, log p(x) at least -84.7 (5,000 draws); 93 minutes on two busy cores.
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
        objective=jv.IWAE(num_samples=5),
        estimator=jv.DoublyReparameterized(),
        optimizer=jv.Muon(learning_rate=0.03, schedule=jv.Cosine(warmup_epochs=1)),
        num_epochs=350,
        batch_size=1000,
        eval_every_epochs=10,
        checkpoint_every_epochs=10,
    )
