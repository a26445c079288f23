"""What lmms-eval's registry is told: the name of the model, and where its class is."""

from lmms_eval.models.registry_v2 import ModelManifest

MANIFEST = ModelManifest(model_id="vflowopt", chat_class_path="vflowopt_lmms.model.VFlowOpt")
