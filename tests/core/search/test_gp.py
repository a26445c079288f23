"""The Gaussian process against the textbook formulas and finite differences."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.spatial.distance import cdist
from scipy.stats import multivariate_normal, norm

from vflowopt.search import gp
from vflowopt.search.gp import GaussianProcess


def data(n=12, d=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(size=(n, d))
    Y = 3.0 + 2.0 * np.sin(4 * X[:, :1]) + X[:, 1:2] ** 2 + 0.05 * rng.normal(size=(n, 1))
    return X, Y


THETA = np.log([0.3, 0.6, 1.4, 1.7, 0.02])


def kernel(A, B):
    """Matern-5/2 (Rasmussen and Williams, 4.17), written down again."""
    r = cdist(A / np.exp(THETA[:3]), B / np.exp(THETA[:3]))
    return 1.7 * (1 + np.sqrt(5) * r + 5 * r**2 / 3) * np.exp(-np.sqrt(5) * r)


def test_predictions_follow_the_textbook():
    X, Y = data()
    model = GaussianProcess(X, Y)
    model.set_hyperparameters(THETA)
    new = np.random.default_rng(1).uniform(size=(7, 3))
    target = (Y - Y.mean()) / Y.std()
    inverse = np.linalg.inv(kernel(X, X) + 0.02 * np.eye(len(X)))
    mean = kernel(new, X) @ inverse @ target * Y.std() + Y.mean()
    variance = (1.7 - np.einsum("ij,jk,ik->i", kernel(new, X), inverse, kernel(new, X))) * Y.var()
    for noise, (found_mean, found_variance) in ((0.0, model.predict_noiseless(new)), (0.02, model.predict(new))):
        np.testing.assert_allclose(found_mean, mean, rtol=1e-9)
        np.testing.assert_allclose(found_variance[:, 0], variance + noise * Y.var(), rtol=1e-9)


def test_the_loss_is_the_negative_log_posterior():
    X, Y = data()
    model = GaussianProcess(X, Y)
    target = ((Y - Y.mean()) / Y.std())[:, 0]

    def log_posterior(theta):
        r = cdist(X / np.exp(theta[:3]), X / np.exp(theta[:3]))
        K = np.exp(theta[3]) * (1 + np.sqrt(5) * r + 5 * r**2 / 3) * np.exp(-np.sqrt(5) * r)
        K += np.exp(theta[4]) * np.eye(len(X))
        priors = [(gp.LENGTH_PRIOR[0] + np.log(3) / 2, gp.LENGTH_PRIOR[1])] * 3 + [gp.SIGNAL_PRIOR, gp.NOISE_PRIOR]
        prior = sum(norm.logpdf(value, mean, sd) for value, (mean, sd) in zip(theta, priors, strict=True))
        return multivariate_normal.logpdf(target, cov=K) + prior

    other = np.log([0.5, 0.4, 0.9, 0.8, 0.1])
    found = model.loss(THETA)[0] - model.loss(other)[0]  # up to a constant
    assert found == pytest.approx(log_posterior(other) - log_posterior(THETA), rel=1e-9)


def test_the_gradient_of_the_loss():
    model = GaussianProcess(*data())
    for theta in (THETA, np.log([0.5, 0.4, 0.9, 0.8, 0.1])):
        numeric = approx_fprime(theta, lambda x: model.loss(x)[0], 1e-6)
        np.testing.assert_allclose(model.loss(theta)[1], numeric, rtol=1e-4, atol=1e-4)


def test_the_gradients_of_predictions():
    model = GaussianProcess(*data())
    model.optimize()
    points = np.random.default_rng(2).uniform(0.1, 0.9, size=(5, 3))
    found = model.get_prediction_gradients(points)
    for which, gradient in enumerate(found):
        assert gradient.shape == (5, 3)
        for row, point in enumerate(points):
            for predict in (model.predict, model.predict_noiseless):

                def at(x, predict=predict, which=which):
                    return predict(x[None])[which].item()

                step = 1e-5
                numeric = [(at(point + step * e) - at(point - step * e)) / (2 * step) for e in np.eye(3)]
                np.testing.assert_allclose(gradient[row], numeric, rtol=1e-4, atol=1e-6)


def test_a_fit_improves_on_its_starts_and_finds_what_matters():
    X, Y = data(n=40)
    model = GaussianProcess(X, Y)
    model.optimize()
    for length, noise in gp.STARTS:
        start = np.log([length * 3**0.5] * 3 + [1.0, noise])
        assert model.loss(model.theta)[0] <= model.loss(start)[0]
    lengths = np.exp(model.theta[:3])
    assert lengths[0] < lengths[2]  # the first input matters, the third does not
    mean, _ = model.predict_noiseless(X)
    assert np.abs(mean - Y).max() < 0.3


def test_a_fit_depends_on_the_data_alone():
    X, Y = data()
    first, second = GaussianProcess(X, Y), GaussianProcess(*data(seed=5))
    first.optimize()
    second.optimize()
    second.set_data(X, Y)
    second.optimize()
    np.testing.assert_array_equal(first.theta, second.theta)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_units_of_the_output_do_not_matter(scale):
    X, Y = data()
    plain, scaled = GaussianProcess(X, Y), GaussianProcess(X, scale * Y - 5.0)
    plain.optimize()
    scaled.optimize()
    np.testing.assert_allclose(plain.theta, scaled.theta, atol=1e-2)
    np.testing.assert_allclose(scale * plain.predict(X)[0] - 5.0, scaled.predict(X)[0], rtol=1e-2)


@pytest.mark.parametrize("level", [0.0, 0.97, -1e5])
def test_a_constant_output_is_predicted(level):
    X, _ = data()
    model = GaussianProcess(X, np.full((len(X), 1), level))
    model.optimize()
    mean, variance = model.predict(X[:3] + 0.01)
    np.testing.assert_allclose(mean, level)
    assert (variance > 0).all()


@pytest.mark.parametrize("distance", [0.0, 1e-12, 1e-6])
def test_near_duplicates_are_no_trouble(distance):
    X, Y = data()
    model = GaussianProcess(np.concatenate([X, X + distance, X]), np.concatenate([Y, Y, Y]))
    model.optimize()
    model.set_hyperparameters(np.log([20.0] * 3 + [50.0, 1e-6]))  # the worst conditioning within bounds
    for value in (*model.predict(X), *model.predict_noiseless(X), *model.get_prediction_gradients(X)):
        assert np.isfinite(value).all()
    assert (model.predict_noiseless(X)[1] > 0).all()


def test_one_point_suffices():
    model = GaussianProcess([[0.5, 0.5]], [[1.0]])
    model.optimize()
    assert model.predict([[0.1, 0.9]])[0].item() == pytest.approx(1.0)
