"""Networks pretrained on ImageNet whose features compare pictures as people do; read from files, never trained here."""
