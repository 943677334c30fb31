-- Whether the last start of an agent that the platform runs told it of a model.
ALTER TABLE agents ADD COLUMN has_model boolean NOT NULL DEFAULT TRUE;
