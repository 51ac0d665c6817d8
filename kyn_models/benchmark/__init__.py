"""What ``kyn bench`` and ``kyn bench-node`` measure with. numpy only; a runtime loads its library when it is used."""
