"""A VampPrior of 500 pseudo-inputs on fixed-binarization MNIST: Tomczak and Welling (2018), equation 9.

Networks and budget are those of `fixed_vae.py`; the paper's are gated, 784 – 300 – 300 – 40.

    python scripts/train.py --config=configs/vampprior.py --config.data.data_dir=DIR --workdir=runs/vampprior
    python scripts/evaluate.py --workdir=runs/vampprior --num-importance-samples=5000

Expected: test ELBO -89.6 nats, log p(x) at least -85.2 (5,000 draws); about 5 minutes on two busy cores.
"""

import jaxvae as jv


def get_config() -> jv.Experiment:
    return jv.Experiment(
        data=jv.Data(name="binarized_mnist", preprocess=jv.Scaling()),
        model=jv.VAE(
            latent_dim=50,
            encoder=jv.MLP(hidden=(200, 200), activation="tanh"),
            prior=jv.VampPrior(num_components=500),
            decoder=jv.MLP(hidden=(200, 200), activation="tanh"),
        ),
        objective=jv.ELBO(closed_form_kl=False),
        optimizer=jv.Muon(learning_rate=0.03, schedule=jv.Cosine(warmup_epochs=1)),
        num_epochs=150,
        batch_size=1000,
        kl_warmup_epochs=20,
        eval_every_epochs=5,
    )
